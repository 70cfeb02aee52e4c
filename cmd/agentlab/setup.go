package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/agentlab-mcp/agentlab/cmd/agentlab/internal/cli"
	"github.com/agentlab-mcp/agentlab/internal/config"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
	pvesetup "github.com/agentlab-mcp/agentlab/provisioner/proxmox/setup"
)

func newProxmoxCommand(locate func() (config.Paths, error)) *cobra.Command {
	return cli.Group(&cobra.Command{Use: "proxmox", Short: "Prepare a Proxmox VE for sandboxes"}, newSetupCommand(locate))
}

// setupFlags are the flags of agentlab proxmox setup.
type setupFlags struct {
	adminFlags
	want  pvesetup.Want
	named []string // templates of the configuration whose VMIDs are not known
	apply bool
	token string // a file
}

func newSetupCommand(locate func() (config.Paths, error)) *cobra.Command {
	var f setupFlags
	cmd := &cobra.Command{
		Use:   "setup",
		Short: "Make the pool, roles, user, token and grants that AgentLab needs",
		Long: `Show the commands that make the pool, roles, user, token and grants that AgentLab
needs of a Proxmox VE 8.2 to 9, and no more, for root to run on a node.

With --apply they are made over the API instead: as --login, with a password
that is read from a file or, for -, from standard input. The ticket of a session
will do as a password too, and is needed if the user has a second factor. With
proxmox_backend: shell no password is needed. What is there already is left
alone, so that it can be repeated, such as for another --template. The token goes
to the file --token-file, which must not exist.

What is not given is taken from the configuration.
` + exitCodes,
		Args: cobra.NoArgs,
		RunE: cli.Interruptible("; what was made stays, and running this again goes on", func(cmd *cobra.Command, _ []string) error {
			paths, err := locate()
			if err != nil {
				return fail(exitFailed, err)
			}
			cfg, err := config.Load(paths.Config)
			if err != nil {
				return fail(exitFailed, err)
			}
			f.fill(cfg)
			if !f.apply {
				return fail(exitFailed, f.show(cmd.OutOrStdout()))
			}
			return fail(exitFailed, f.run(cmd.Context(), cfg, cmd.InOrStdin(), cmd.OutOrStdout()))
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&f.want.Pool, "pool", "", "pool that machines are made in")
	flags.StringArrayVar(&f.want.Templates, "template", nil, "VMID of a template or, with --apply, its name; may be repeated")
	flags.StringArrayVar(&f.want.Storages, "storage", nil, "storage of the templates' disks; --apply finds it; may be repeated")
	flags.StringArrayVar(&f.want.Bridges, "bridge", nil, "bridge, or ZONE/VNET; --apply finds those of templates; may be repeated")
	flags.BoolVar(&f.want.Nodes, "nodes", false, "let the free memory of nodes be seen, for placement in a cluster")
	flags.StringVar(&f.want.User, "user", "agentlab@pve", "user that is made")
	flags.StringVar(&f.want.Token, "token", "agentlab", "name of the token that is made")
	flags.BoolVar(&f.apply, "apply", false, "make it over the API")
	f.add(flags)
	flags.StringVar(&f.token, "token-file", "", "file for the token's secret")
	return cmd
}

// fill takes from the configuration what the flags leave open.
func (f *setupFlags) fill(cfg config.Config) {
	px := cfg.Proxmox
	f.want.Pool = cmp.Or(f.want.Pool, px.Pool)
	if len(f.want.Bridges) == 0 && px.Bridge != "" {
		f.want.Bridges = []string{px.Bridge}
	}
	if len(f.want.Templates) == 0 {
		for _, root := range roots(cfg) {
			name := pve.ParseProperties(root).First()
			if _, err := strconv.Atoi(name); err != nil && !f.apply {
				f.named = append(f.named, name)
				continue
			}
			f.want.Templates = append(f.want.Templates, name)
		}
	}
	f.adminFlags.fill(cfg)
	f.token = cmp.Or(f.token, px.APITokenFile)
}

// show prints the commands.
func (f *setupFlags) show(w io.Writer) error {
	script, err := pvesetup.Script(f.want)
	if err != nil {
		return err
	}
	if len(f.named) > 0 {
		script += fmt.Sprintf("# For template %s, give --template VMID and --storage NAME; this shows its VMID: pvesh get /cluster/resources --type vm\n", strings.Join(f.named, ", "))
	}
	_, err = io.WriteString(w, script)
	return err
}

// run makes all over the API.
func (f *setupFlags) run(ctx context.Context, cfg config.Config, stdin io.Reader, stdout io.Writer) error {
	if err := f.want.Validate(); err != nil {
		return err
	}
	client, err := f.setupClient(ctx, cfg, stdin)
	if err != nil {
		return err
	}
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(stdout, format+"\n", args...) }
	s := pvesetup.Setup{Client: client, Want: f.want, Secret: f.token, Report: func(change string) { say("done: %s", change) }}
	changed, err := s.Apply(ctx)
	switch {
	case err != nil:
		return err
	case !changed:
		say("nothing to change")
	}
	if len(f.want.Templates) == 0 {
		say("no template is named yet: agentlab template build makes one; then give --template NAME")
	}
	if f.token != "" && f.token != cfg.Proxmox.APITokenFile {
		say("for config.yaml: proxmox_api_token_file: %s", absolute(f.token))
	}
	say("agentlab doctor says whether all is well")
	return nil
}

// absolute is the path as it is from anywhere.
func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

// setupClient returns one that may do what setup does.
func (f *setupFlags) setupClient(ctx context.Context, cfg config.Config, stdin io.Reader) (*pve.Client, error) {
	if cfg.Proxmox.Backend == "shell" {
		transport, err := proxmoxSettings{Proxmox: cfg.Proxmox}.transport()
		return &pve.Client{Transport: transport}, err
	}
	return f.client(ctx, stdin)
}
