package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

const cpHelp = `Copy a file or a directory into a sandbox, or out of one. One of the two has the id
or the name of a sandbox and a colon before it; a path there that is not absolute is
below the home directory. A path on this machine with a colon is written ./a:b.

    agentlab sandbox cp project sb-...:              # becomes ~/project
    agentlab sandbox cp sb-...:project/out results   # becomes results/out if results is a directory

Of a directory, what .gitignore files in it name stays where it is, and so does .git. A
directory that exists is added to. Outside a sandbox nothing is replaced without
--force. What fails or is interrupted leaves nothing. In a terminal, standard error
shows how far it is.
`

// transfer is what cp is asked for.
type transfer struct {
	upload  bool
	local   string // absolute
	sandbox string // id or name
	remote  string
}

func newCpCommand(host Host) *cobra.Command {
	var force, asJSON bool
	cmd := &cobra.Command{
		Use:   "cp SOURCE ID|NAME:[PATH] | cp ID|NAME:PATH TARGET",
		Short: "Copy files into a sandbox or out of one",
		Long:  cpHelp + exitCodes,
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, given []string) error {
			t, err := parseTransfer(given[0], given[1])
			if err != nil {
				return err
			}
			return runWith(host, Want{HostDirs: []string{filepath.Dir(t.local)}}, "", func(ctx context.Context, cmd *cobra.Command, c *Client, _ []string) error {
				done, err := t.do(ctx, c, force, cmd.ErrOrStderr())
				if err != nil {
					return err
				}
				if asJSON {
					return writeJSON(cmd.OutOrStdout(), done)
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "files: %.0f, bytes: %.0f, left out: %.0f\n", done["files"], done["bytes"], done["skipped"])
				return err
			})(cmd, given)
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "replace files that exist outside the sandbox")
	addJSON(cmd, &asJSON)
	return cmd
}

// parseTransfer reads the arguments of cp.
func parseTransfer(source, target string) (t transfer, err error) {
	from, fromPath, out := splitRemote(source)
	to, toPath, in := splitRemote(target)
	switch {
	case in == out:
		return t, errors.New("one of the two must be ID:PATH, with the id or the name of a sandbox, and the other a path on this machine, which is written ./a:b if it has a colon")
	case out && fromPath == "":
		return t, fmt.Errorf("%q: want ID:PATH; ID:. is the home directory", source)
	case in:
		t = transfer{upload: true, local: source, sandbox: to, remote: toPath}
	default:
		t = transfer{local: target, sandbox: from, remote: fromPath}
	}
	if !t.upload && path.Base(t.remote) == ".." { // would be the parent of the target; "." and "/" have no name either, and are the target
		return t, fmt.Errorf("%q: a path in the sandbox that ends in .. has no name to be copied to; give the directory itself", source)
	}
	dir := strings.HasSuffix(t.local, "/")
	if t.local, err = filepath.Abs(t.local); err != nil {
		return t, err
	}
	info, err := os.Stat(t.local)
	switch {
	case t.upload && err != nil:
		return t, Fail(exitNotFound, err)
	case !t.upload && (dir || err == nil && info.IsDir()):
		t.local = filepath.Join(t.local, path.Base(t.remote))
	}
	return t, nil
}

// splitRemote takes ID:PATH apart.
func splitRemote(arg string) (id, path string, ok bool) {
	id, path, ok = strings.Cut(arg, ":")
	return id, path, ok && id != "" && !strings.Contains(id, "/")
}

// do copies, and returns what the tool answers.
func (t transfer) do(ctx context.Context, c *Client, force bool, stderr io.Writer) (done map[string]any, err error) {
	ids, err := c.Resolve(ctx, t.sandbox)
	if err != nil {
		return nil, err
	}
	t.sandbox = ids[0]
	b := newBar(stderr)
	defer b.clear()
	c.moved = b.moved
	tool, a := "download_file", args{"sandbox_id": t.sandbox, "path": t.remote, "local_path": t.local, "overwrite": force}
	if t.upload {
		tool, a = "upload_file", args{"sandbox_id": t.sandbox, "local_path": t.local, "path": t.remote}
	}
	err = c.Call(ctx, tool, a, &done)
	return done, err
}
