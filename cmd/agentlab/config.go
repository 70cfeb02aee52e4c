package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/agentlab-mcp/agentlab/cmd/agentlab/internal/cli"
	"github.com/agentlab-mcp/agentlab/internal/config"
)

func newConfigCommand(locate func() (config.Paths, error)) *cobra.Command {
	var asJSON bool
	check := &cobra.Command{
		Use:   "check",
		Short: "Say what is wrong with the configuration, with file and line",
		Long: `Say what is wrong with the configuration and the profiles beside it, every mistake
with file and line, and with the files of tokens and certificates that it names. No
daemon and no backend is asked: agentlab doctor says whether machines can be made.

Exit codes:
  0  nothing is wrong
  1  something is
  2  the command line is wrong
`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			paths, err := locate()
			if err != nil {
				return err
			}
			c, err := config.LoadAll(paths.Config)
			err = errors.Join(err, checkNamedFiles(paths.Config, c)) // of what could be read
			if asJSON {
				if werr := writeJSON(cmd.OutOrStdout(), checkedJSON(paths.Config, c, err)); werr != nil || err == nil {
					return fail(exitFailed, werr)
				}
				return cli.Failure{Code: exitFailed} // it was printed
			}
			if err != nil {
				return fail(exitFailed, err)
			}
			return fail(exitFailed, printChecked(cmd.OutOrStdout(), paths.Config, c))
		},
	}
	check.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cli.Group(&cobra.Command{Use: "config", Short: "Check the configuration"}, check)
}

// checkNamedFiles reads the files that the configuration names, as a daemon does
// when it starts.
func checkNamedFiles(file string, c config.Config) error {
	var errs []error
	check := func(err error) {
		if err == nil {
			return
		}
		for mistake := range strings.SplitSeq(err.Error(), "\n") {
			errs = append(errs, fmt.Errorf("%s: %s", file, mistake))
		}
	}
	if c.Proxmox.Used() || uses(c, "proxmox") {
		_, err := readProxmox(c.Proxmox, os.Getenv)
		check(err)
	}
	if c.HTTP.TLSCert != "" && c.HTTP.TLSKey != "" { // one alone was said to be
		check((&certificate{HTTP: c.HTTP, log: slog.New(slog.DiscardHandler)}).load())
	}
	_, err := c.OAuth.Client()
	check(err)
	return errors.Join(errs...)
}

func printChecked(out io.Writer, file string, c config.Config) error {
	what := "is valid"
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		what = "is not there, and need not be"
	}
	_, err := fmt.Fprintf(out, "%s %s; %d profiles: %s\n", file, what, len(c.Profiles), strings.Join(profileNames(c), ", "))
	return err
}

// configChecked is what config check prints as JSON.
type configChecked struct {
	OK       bool     `json:"ok"`
	File     string   `json:"file"`
	Problems []string `json:"problems"`
	Profiles []string `json:"profiles"`
}

func checkedJSON(file string, c config.Config, err error) configChecked {
	out := configChecked{err == nil, file, []string{}, []string{}}
	if err != nil {
		out.Problems = strings.Split(err.Error(), "\n")
	} else {
		out.Profiles = profileNames(c)
	}
	return out
}
