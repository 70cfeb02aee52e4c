package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/agentlab-mcp/agentlab/cmd/agentlab/internal/cli"
	"github.com/agentlab-mcp/agentlab/internal/config"
	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/doctor"
	"github.com/agentlab-mcp/agentlab/sessions"
)

func newDoctorCommand(locate func() (config.Paths, error)) *cobra.Command {
	var create, asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say what keeps sandboxes from being made, and what mends it",
		Long: `Say what keeps sandboxes from being made, and what mends it: a line for each
check, with ok, warning or FAILED. It looks at the backends that profiles use,
and changes nothing.

With --create it also makes one machine of each template of a Proxmox VE, says
how long each step took, and destroys it.

Exit codes:
  0    nothing failed
  1    something failed
  2    the command line is wrong
  130  interrupted
`,
		Args: cobra.NoArgs,
		RunE: cli.Interruptible("", func(cmd *cobra.Command, _ []string) error {
			paths, err := locate()
			if err != nil {
				return fail(exitFailed, err)
			}
			results := diagnose(cmd.Context(), paths, create)
			if err := cmd.Context().Err(); err != nil {
				return err
			}
			return fail(exitFailed, report(cmd.OutOrStdout(), results, asJSON))
		}),
	}
	cmd.Flags().BoolVar(&create, "create", false, "make a machine of each template, time it, and destroy it")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// diagnose checks the configuration and the backends that profiles use.
func diagnose(ctx context.Context, paths config.Paths, create bool) []doctor.Result {
	cfg, err := config.Load(paths.Config)
	if err != nil {
		return []doctor.Result{{Check: "configuration", Status: doctor.Failed, Detail: err.Error(), Do: "correct these lines"}}
	}
	results := []doctor.Result{{Check: "configuration", Status: doctor.OK, Detail: paths.Config}}
	if err := cfg.Broken(); err != nil {
		results = []doctor.Result{{Check: "configuration", Status: doctor.Failed, Detail: err.Error(), Do: "correct these lines"}}
	}
	in := &installation{paths: paths, level: new(slog.LevelVar), log: slog.New(slog.DiscardHandler)}
	key, id, err := in.identity(ctx)
	if err != nil {
		return append(results, doctor.Result{Check: "state", Status: doctor.Failed, Detail: err.Error(), Do: "correct the permissions of the directory, or put back what is missing"})
	}
	backends := in.backends(cfg, newRecipes(cfg, paths.Config, in.log), key, id)
	if uses(cfg, "local") {
		results = append(results, checkLocal(ctx, cfg, backends["local"]))
	}
	if backends["proxmox"] != nil {
		results = append(results, checkProxmox(ctx, cfg, key, id, create)...)
	}
	return append(results, checkProfiles(ctx, cfg, backends)...)
}

// checkProfiles asks the backends that are well whether they can make machines of
// each profile.
func checkProfiles(ctx context.Context, cfg config.Config, backends map[string]provisioner.Provisioner) (results []doctor.Result) {
	cfg.Profiles = slices.DeleteFunc(slices.Clone(cfg.Profiles), func(p config.Profile) bool { return p.Problem != "" })
	_, unusable := vetter(cfg, backends).Vet(ctx)
	for _, u := range sessions.Together(unusable) {
		results = append(results, doctor.Result{Check: "profile " + u.Profile, Status: doctor.Failed, Detail: u.Problem, Do: "correct the profile, or make what it names"})
	}
	return results
}

// identity returns the key and the name of the installation, also while a
// daemon keeps its state directory.
func (in *installation) identity(ctx context.Context) (key provisioner.Key, id string, err error) {
	defer func() { err = errors.Join(err, in.close()) }()
	var held errHeld
	if err := in.lockState(ctx, 0); err != nil && !errors.As(err, &held) {
		return key, "", err
	}
	if key, err = config.InstanceKey(in.state); err != nil {
		return key, "", err
	}
	id, err = config.InstanceID(key)
	return key, id, err
}

func uses(cfg config.Config, backend string) bool {
	return slices.ContainsFunc(cfg.Profiles, func(p config.Profile) bool { return p.Backend == backend })
}

// checkLocal asks the backend itself. Where agents get machines of another
// unless they ask, a local one that does not work is no failure.
func checkLocal(ctx context.Context, cfg config.Config, p provisioner.Provisioner) doctor.Result {
	err := p.(provisioner.Checker).Check(ctx)
	if err == nil {
		return doctor.Result{Check: "local", Status: doctor.OK, Detail: "machines can be made on this host"}
	}
	r := doctor.Result{Check: "local", Status: doctor.Failed, Detail: err.Error(), Do: "see docs/local-backend.md"}
	if cfg.Profiles[0].Backend != "local" {
		r.Status = doctor.Warning
	}
	return r
}

func checkProxmox(ctx context.Context, cfg config.Config, key provisioner.Key, id string, create bool) []doctor.Result {
	s, err := readProxmox(cfg.Proxmox, os.Getenv)
	if err != nil {
		return []doctor.Result{{Check: "proxmox", Status: doctor.Failed, Detail: err.Error(), Do: "agentlab proxmox setup makes a token, and docs/proxmox.md says how to name it"}}
	}
	p, err := s.provisioner(newRecipes(cfg, "", slog.New(slog.DiscardHandler)), key, id, slog.New(slog.DiscardHandler))
	if err != nil {
		return []doctor.Result{{Check: "proxmox", Status: doctor.Failed, Detail: err.Error(), Do: "correct the configuration"}}
	}
	d := doctor.Proxmox{Backend: p, Roots: roots(cfg), Create: create}
	if s.Backend == "api" {
		d.URL, d.Trust = s.APIURL, s.trust()
		d.Token, _, _ = strings.Cut(s.Token.Reveal(), "=")
	}
	results := d.Check(ctx)
	for i := range results {
		results[i].Check = "proxmox " + results[i].Check
	}
	return results
}

// roots are what machines of a Proxmox are made of.
func roots(cfg config.Config) []string {
	var all []string
	add := func(root string) {
		if root != "" && !slices.Contains(all, root) {
			all = append(all, root)
		}
	}
	for _, p := range cfg.Profiles {
		if p.Backend == "proxmox" {
			add(cmp.Or(p.Root, cfg.Proxmox.Template))
		}
	}
	if len(all) == 0 {
		add(cfg.Proxmox.Template)
	}
	return all
}

// errUnsound: what is wrong was printed.
var errUnsound = errors.New("something failed; what mends it stands above")

func report(w io.Writer, results []doctor.Result, asJSON bool) error {
	failed := slices.ContainsFunc(results, func(r doctor.Result) bool { return r.Status == doctor.Failed })
	if asJSON {
		err := writeJSON(w, struct {
			OK     bool            `json:"ok"`
			Checks []doctor.Result `json:"checks"`
		}{!failed, results})
		if err != nil {
			return err
		}
	} else {
		for _, r := range results {
			if _, err := io.WriteString(w, wording(r)); err != nil {
				return err
			}
		}
	}
	if failed {
		return errUnsound
	}
	return nil
}

// wording is a line for the result, and below it what mends it.
func wording(r doctor.Result) string {
	const indent = "         "
	var b strings.Builder
	fmt.Fprintf(&b, "%-8s %s: %s\n", r.Status, r.Check, strings.ReplaceAll(strings.TrimSpace(r.Detail), "\n", "\n"+indent))
	if len(r.Run) > 0 {
		fmt.Fprintf(&b, "%srun on a node:\n", indent)
	}
	for _, c := range r.Run {
		fmt.Fprintf(&b, "%s    %s\n", indent, c)
	}
	if r.Do != "" {
		fmt.Fprintf(&b, "%s%s\n", indent, r.Do)
	}
	return b.String()
}
