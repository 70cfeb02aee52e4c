package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/agentlab-mcp/agentlab/cmd/agentlab/internal/cli"
	"github.com/agentlab-mcp/agentlab/internal/config"
	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/sessions"
)

func newProfileCommand(locate func() (config.Paths, error)) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "profile",
		Short: "Show and check the recipes for sandboxes",
		Long: `Show and check the recipes for sandboxes: the files *.yaml in the directory
profiles beside the configuration file, and those that are built in. No daemon is
asked; one that runs follows the files.
` + exitCodes,
	}
	load := func() (config.Config, error) {
		paths, err := locate()
		if err != nil {
			return config.Config{}, err
		}
		c, err := config.Load(paths.Config)
		return c, fail(exitFailed, err)
	}
	return cli.Group(cmd, newProfileListCommand(load), newProfileShowCommand(load), newProfileValidateCommand(locate))
}

// profileLine is a profile in the output of list.
type profileLine struct {
	Name        string `json:"name"`
	Backend     string `json:"backend"`
	Cores       int    `json:"cores"`
	MemoryMB    int    `json:"memory_mb"`
	DiskMB      int    `json:"disk_mb"`
	Network     string `json:"network"`
	TTLSeconds  int    `json:"ttl_seconds"`
	Description string `json:"description,omitempty"`
}

func newProfileListCommand(load func() (config.Config, error)) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the profiles, first the one of sandboxes that ask for none",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := load()
			if err != nil {
				return err
			}
			var list []profileLine
			for _, p := range c.Profiles {
				if p.Problem != "" {
					continue
				}
				list = append(list, profileLine{p.Name, p.Backend, p.Cores, p.MemoryMB, p.DiskMB, p.Network, int(p.TTL / time.Second), p.Description})
			}
			if asJSON {
				err = writeJSON(cmd.OutOrStdout(), map[string]any{"profiles": list})
			} else {
				err = printProfiles(cmd.OutOrStdout(), list)
			}
			return fail(exitFailed, cmp.Or(err, c.Broken()))
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printProfiles(w io.Writer, list []profileLine) error {
	t := cli.Table{Header: []string{"PROFILE", "BACKEND", "CORES", "MEMORY", "DISK", "NETWORK", "TTL"}}
	for _, p := range list {
		t.Rows = append(t.Rows, []string{
			p.Name, p.Backend, strconv.Itoa(p.Cores), fmt.Sprint(p.MemoryMB, " MiB"), fmt.Sprint(p.DiskMB, " MiB"),
			p.Network, fmt.Sprint(time.Duration(p.TTLSeconds) * time.Second),
		})
	}
	return t.Print(w)
}

func newProfileShowCommand(load func() (config.Config, error)) *cobra.Command {
	return &cobra.Command{
		Use:   "show NAME",
		Short: "Print a profile with all its keys, as a file that says the same",
		Args:  cobra.ExactArgs(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			c, _ := load() // there is nothing to complete then
			return profileNames(c), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := load()
			if err != nil {
				return err
			}
			for _, p := range c.Profiles {
				if p.Name != args[0] {
					continue
				}
				if p.Problem != "" {
					return fail(exitFailed, errors.New(p.Problem))
				}
				text, err := p.YAML()
				if err == nil {
					_, err = cmd.OutOrStdout().Write(text)
				}
				return fail(exitFailed, err)
			}
			return fmt.Errorf("there is no profile %q; there are: %s", args[0], strings.Join(profileNames(c), ", "))
		},
	}
}

func profileNames(c config.Config) (names []string) {
	for _, p := range c.Profiles {
		names = append(names, p.Name)
	}
	return names
}

func newProfileValidateCommand(locate func() (config.Paths, error)) *cobra.Command {
	var ask bool
	cmd := &cobra.Command{
		Use:   "validate",
		Short: "Say what is wrong with the profiles and the configuration, with file and line",
		Long: `Say what is wrong with the profiles and the configuration, with file and line.

With --backend the backends are asked, too, whether they can make machines of each
profile: whether what it is made from is there and fit, and whether any node has
that many cores and that much memory. One that can't be asked is told as such.
agentlab doctor says more of a backend, and what mends it.
` + exitCodes,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			paths, err := locate()
			if err != nil {
				return err
			}
			c, err := config.LoadAll(paths.Config)
			if err != nil {
				return fail(exitFailed, err)
			}
			said := "are valid"
			if ask {
				said = "are valid, and machines can be made of each"
				err = askAboutProfiles(cmd.Context(), paths, c)
			}
			if err == nil {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%d profiles %s: %s\n", len(c.Profiles), said, strings.Join(profileNames(c), ", "))
			}
			return fail(exitFailed, err)
		},
	}
	cmd.Flags().BoolVar(&ask, "backend", false, "ask the backends, too")
	return cmd
}

// askAboutProfiles returns why a backend can't make machines of a profile.
func askAboutProfiles(ctx context.Context, paths config.Paths, c config.Config) error {
	in := &installation{paths: paths, level: new(slog.LevelVar), log: slog.New(slog.DiscardHandler)}
	key, id, err := in.identity(ctx)
	if err != nil {
		return err
	}
	backends, unusable := vetter(c, in.backends(c, newRecipes(c, paths.Config, in.log), key, id)).Vet(ctx)
	var errs []error
	for _, b := range backends {
		if b.Problem != "" && len(b.Profiles) > 0 {
			errs = append(errs, fmt.Errorf("backend %s can't make machines now, so nothing is known of profile %s: %s", b.Name, strings.Join(b.Profiles, ", "), b.Problem))
		}
	}
	for _, u := range sessions.Together(unusable) {
		errs = append(errs, fmt.Errorf("profile %s: %s", u.Profile, u.Problem))
	}
	return errors.Join(errs...)
}

// vetter is a manager that is only asked what can be made.
func vetter(c config.Config, backends map[string]provisioner.Provisioner) *sessions.Manager {
	return &sessions.Manager{Backends: backends, Profiles: c.Recipes()}
}
