package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/agentlab-mcp/agentlab/cmd/agentlab/internal/cli"
	"github.com/agentlab-mcp/agentlab/internal/config"
)

func newProfileCommand(locate func() (config.Paths, error)) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "profile",
		Short: "Show and check the recipes for sandboxes",
		Long: `Show and check the recipes for sandboxes: the files *.yaml in the directory
profiles beside the configuration file, and those that are built in. No daemon is
asked: one that runs has the profiles from when it was started.
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
	return cli.Group(cmd, newProfileListCommand(load), newProfileShowCommand(load), newProfileValidateCommand(load))
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
				list = append(list, profileLine{p.Name, p.Backend, p.Cores, p.MemoryMB, p.DiskMB, p.Network, int(p.TTL / time.Second), p.Description})
			}
			if asJSON {
				return fail(exitFailed, writeJSON(cmd.OutOrStdout(), map[string]any{"profiles": list}))
			}
			return fail(exitFailed, printProfiles(cmd.OutOrStdout(), list))
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

func newProfileValidateCommand(load func() (config.Config, error)) *cobra.Command {
	return &cobra.Command{
		Use:   "validate",
		Short: "Say what is wrong with the profiles and the configuration, with file and line",
		Long: `Say what is wrong with the profiles and the configuration, with file and line.
agentlab doctor says besides whether the backends can make machines of them.
` + exitCodes,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := load()
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%d profiles are valid: %s\n", len(c.Profiles), strings.Join(profileNames(c), ", "))
			return fail(exitFailed, err)
		},
	}
}
