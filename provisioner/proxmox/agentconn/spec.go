package agentconn

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// quote makes one shell word of any bytes but NUL.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

var (
	identifier = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	userName   = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)
	termName   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]*$`)
)

// words says a command in shell words, for the stage in supervise.sh: $dir, a
// function environment, and "$@".
func words(cmd guest.Cmd) ([]byte, error) {
	if len(cmd.Args) == 0 || cmd.Args[0] == "" {
		return nil, fmt.Errorf("%w: the command is empty", guest.ErrNoCommand)
	}
	var b, odd bytes.Buffer
	dir := cmd.Dir
	if dir != "" && !strings.HasPrefix(dir, "/") {
		dir = "./" + dir
	}
	fmt.Fprintf(&b, "dir=%s\nenvironment() { :\n", quote(dir))
	for _, e := range cmd.Env {
		name, _, ok := strings.Cut(e, "=")
		switch {
		case !ok || name == "":
			return nil, fmt.Errorf("environment %q is not NAME=value", name)
		case identifier.MatchString(name):
			fmt.Fprintf(&b, "export %s\n", quote(e))
		default: // no shell can, env can
			fmt.Fprintf(&odd, " %s", quote(e))
		}
	}
	b.WriteString("}\nset --")
	if odd.Len() > 0 {
		fmt.Fprintf(&b, " env%s", odd.String())
	}
	for _, a := range cmd.Args {
		b.WriteString(" " + quote(a))
	}
	b.WriteByte('\n')
	if bytes.IndexByte(b.Bytes(), 0) >= 0 {
		return nil, fmt.Errorf("%w: a command can't hold NUL", guest.ErrNoCommand)
	}
	return b.Bytes(), nil
}
