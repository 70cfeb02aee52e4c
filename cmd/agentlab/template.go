package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/agentlab-mcp/agentlab/cmd/agentlab/internal/cli"
	"github.com/agentlab-mcp/agentlab/internal/config"
	"github.com/agentlab-mcp/agentlab/internal/redact"
	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/doctor"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/template"
)

// basics are installed unless --packages says otherwise.
const basics = "ca-certificates,curl,git,jq,openssh-server,python3,sudo,unzip,xz-utils"

// templateFlags are the flags of agentlab template build.
type templateFlags struct {
	adminFlags
	spec            template.Spec
	image, url, sum string
	token           string // a file
	packages        []string
	timeout         time.Duration
	noVerify, json  bool
	keep, keepImage bool
}

func newTemplateCommand(locate func() (config.Paths, error)) *cobra.Command {
	return cli.Group(&cobra.Command{Use: "template", Short: "Build what sandboxes of a Proxmox VE are made of"}, newTemplateBuildCommand(locate))
}

func newTemplateBuildCommand(locate func() (config.Paths, error)) *cobra.Command {
	var f templateFlags
	cmd := &cobra.Command{
		Use:   "build",
		Short: "Build a template on a Proxmox VE, over its API",
		Long: `Build a template on a Proxmox VE 8.4 or later, over its API alone.

The node downloads an image for clouds. A machine is made of it, and booted once
with a drive that has cloud-init install qemu-guest-agent and --packages. It is
cleaned of what clones must not share and converted. At the end one sandbox is
made of it, used and destroyed.

It needs more rights than sandboxes do: log in with --password-file as for
agentlab proxmox setup, or name a token with --token-file. What is missing is
told before anything is made.

Run again after an interruption it goes on, or on another node begins anew; what
fails leaves nothing, what can't be removed now is named, and a template that is
there already is left alone. --image names one that is
published (` + strings.Join(template.Published(), ", ") + `), whose checksum is read over
https; --url and --checksum name any other of Debian or Ubuntu.
` + exitCodes,
		Args: cobra.NoArgs,
		RunE: cli.Interruptible("; agentlab template build with the same flags goes on", func(cmd *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			paths, err := locate()
			if err != nil {
				return fail(exitFailed, err)
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), f.timeout)
			defer cancel()
			return fail(exitFailed, f.run(ctx, paths, cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()))
		}),
	}
	f.addAll(cmd)
	return cmd
}

func (f *templateFlags) addAll(cmd *cobra.Command) {
	flags := cmd.Flags()
	f.add(flags)
	flags.StringVar(&f.token, "token-file", "", "file with a token that may build, in place of a password")
	flags.StringVar(&f.image, "image", "debian-12", "published image: "+strings.Join(template.Published(), ", "))
	flags.StringVar(&f.url, "url", "", "other image, http or https")
	flags.StringVar(&f.sum, "checksum", "", "of the other image: sha256:HEX, sha384:HEX or sha512:HEX")
	flags.StringVar(&f.spec.Name, "name", "", "name of the template (default the image's)")
	flags.IntVar(&f.spec.VMID, "vmid", 0, "VMID of the template (default the first free one from 9000 on)")
	flags.StringVar(&f.spec.Node, "node", "", "node that it is made on (default the configuration's, or the one that answers)")
	flags.StringVar(&f.spec.Storage, "storage", "", "storage of its disk (default the one with most room that makes linked clones)")
	flags.StringVar(&f.spec.ImageStorage, "image-storage", "", "storage for the image until it is imported (default one that takes content import)")
	flags.StringVar(&f.spec.Bridge, "bridge", "", "bridge with DHCP and a way to package mirrors (default the configuration's, or the node's first)")
	flags.StringSliceVar(&f.packages, "packages", strings.Split(basics, ","), "packages to install besides qemu-guest-agent")
	flags.StringVar(&f.spec.Size, "size", "8G", "size of its disk")
	flags.IntVar(&f.spec.Cores, "cores", 2, "cores of machines whose profile says nothing")
	flags.IntVar(&f.spec.MemoryMB, "memory", 2048, "their memory in MB")
	flags.DurationVar(&f.timeout, "timeout", time.Hour, "how long it may take")
	flags.BoolVar(&f.noVerify, "no-verify", false, "make no sandbox of it")
	flags.BoolVar(&f.keepImage, "keep-image", false, "leave the downloaded image for the next build")
	flags.BoolVar(&f.keep, "keep", false, "leave what a build that fails has made, to look at it; the next build removes it")
	flags.BoolVar(&f.json, "json", false, "print JSON when it is done")
}

// check refuses flags that contradict each other.
func (f *templateFlags) check() error {
	switch {
	case (f.url == "") != (f.sum == ""):
		return errors.New("--url and --checksum go together: an image is downloaded only if its checksum is known")
	case f.url != "" && f.spec.Name == "":
		return errors.New("--name is needed with --url")
	case f.token != "" && f.password != "":
		return errors.New("--token-file and --password-file exclude each other")
	case f.timeout <= 0:
		return fmt.Errorf("--timeout: got %v, want more than 0", f.timeout)
	}
	f.spec.Name = cmp.Or(f.spec.Name, f.image)
	f.spec.Packages = f.packages
	return ofFlags(errors.Join(f.checkImage(), f.spec.Validate()))
}

// checkImage says what of the image can't be, without looking for it.
func (f *templateFlags) checkImage() error {
	if f.url == "" {
		return template.CheckPublished(f.image)
	}
	image, err := f.otherImage()
	return cmp.Or(err, image.Validate())
}

// otherImage is the one of --url and --checksum.
func (f *templateFlags) otherImage() (template.Image, error) {
	algorithm, sum, err := template.ParseChecksum(f.sum)
	return template.Image{URL: f.url, Checksum: sum, Algorithm: algorithm}, err
}

// ofFlags makes errors about fields ones about the flags of the same names.
func ofFlags(err error) error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var errs []error
		for _, e := range joined.Unwrap() {
			errs = append(errs, ofFlags(e))
		}
		return errors.Join(errs...)
	}
	if err == nil {
		return nil
	}
	return fmt.Errorf("--%w", err)
}

// errBuilding is that another process builds a template for this installation.
var errBuilding = errors.New("another template is being built")

func (f *templateFlags) run(ctx context.Context, paths config.Paths, stdin io.Reader, stdout, stderr io.Writer) error {
	cfg, err := config.Load(paths.Config)
	if err != nil {
		return err
	}
	f.fill(cfg)
	in := &installation{paths: paths, level: new(slog.LevelVar), log: slog.New(slog.DiscardHandler)}
	key, id, err := in.identity(ctx)
	if err != nil {
		return err
	}
	unlock, err := lockBuilds(ctx, paths)
	if err != nil {
		return err
	}
	defer unlock()
	client, err := f.buildClient(ctx, cfg, stdin)
	if err != nil {
		return err
	}
	if f.spec.Image, err = f.findImage(ctx); err != nil {
		return err
	}
	b := template.Builder{Client: client, Key: key, Spec: f.spec, Pool: cfg.Proxmox.Pool, KeepImage: f.keepImage, Keep: f.keep, Report: progress(stderr)}
	if !f.noVerify {
		b.Try = f.tries(cfg, client, key, id)
	}
	result, err := b.Build(ctx)
	for _, left := range result.Left {
		_, _ = fmt.Fprintf(stderr, "left     %s\n", left)
	}
	if err != nil {
		return err
	}
	return f.tell(stdout, result)
}

// lockBuilds keeps a second build of this installation from taking the first
// for one that was interrupted.
func lockBuilds(ctx context.Context, paths config.Paths) (unlock func(), err error) {
	dir, err := config.OpenDir(paths.State, config.StateMode())
	if err != nil {
		return nil, err
	}
	lock, err := hold(ctx, dir, "template.lock", fmt.Sprintf("process %d", os.Getpid()), 0)
	if held, ok := errors.AsType[errHeld](err); ok {
		err = fmt.Errorf("%w by %s", errBuilding, held.holder)
	}
	if err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	return func() { _, _ = lock.Close(), dir.Close() }, nil
}

// fill takes from the configuration what the flags leave open.
func (f *templateFlags) fill(cfg config.Config) {
	f.adminFlags.fill(cfg)
	f.spec.Node = cmp.Or(f.spec.Node, cfg.Proxmox.Node)
	f.spec.Bridge = cmp.Or(f.spec.Bridge, cfg.Proxmox.Bridge)
}

// buildClient returns one by password, by token, or by the configured token.
func (f *templateFlags) buildClient(ctx context.Context, cfg config.Config, stdin io.Reader) (*pve.Client, error) {
	if f.password != "" {
		return f.client(ctx, stdin)
	}
	trust, err := f.trust()
	if err != nil {
		return nil, err
	}
	var token redact.String
	if f.token != "" {
		data, err := os.ReadFile(f.token)
		if err != nil {
			return nil, fmt.Errorf("--token-file: %w", err)
		}
		token = redact.String(strings.TrimSpace(string(data)))
	} else if token, err = cfg.Proxmox.Token(os.Getenv); err != nil {
		return nil, fmt.Errorf("give --password-file or --token-file: %w", err)
	}
	transport, err := pve.NewHTTPS(f.adminFlags.url, pve.Auth{Token: token}, trust)
	return &pve.Client{Transport: transport}, err
}

// findImage returns the image that is asked for.
func (f *templateFlags) findImage(ctx context.Context) (template.Image, error) {
	if f.url == "" {
		return template.Find(ctx, &http.Client{Timeout: time.Minute}, f.image)
	}
	return f.otherImage()
}

// tries makes a sandbox as the daemon would, but with the rights of whoever
// builds: AgentLab's own are given for a template that is there already.
func (f *templateFlags) tries(cfg config.Config, client *pve.Client, key provisioner.Key, id string) func(context.Context, pve.VM, bool) error {
	return func(ctx context.Context, vm pve.VM, full bool) error {
		p := &proxmox.Provisioner{
			Client: &pve.Client{Transport: client.Transport}, Key: key, Instance: id, Pool: cfg.Proxmox.Pool, VMIDs: proxmox.Range(cfg.Proxmox.VMIDs), Nodes: []string{vm.Node},
			Channel: func(string) string { return "agent" },
		}
		root := strconv.Itoa(vm.ID)
		if full {
			root += ",full=1"
		}
		r := (&doctor.Proxmox{Backend: p}).Try(ctx, root, "template")
		if r.Status == doctor.Failed {
			return errors.New(r.Detail)
		}
		return nil
	}
}

// progress writes a line when a step begins, and one when it has ended.
func progress(w io.Writer) func(template.Event) {
	return func(e template.Event) {
		if e.Took == 0 {
			_, _ = fmt.Fprintf(w, "%-8s ...\n", e.Step)
			return
		}
		_, _ = fmt.Fprintln(w, cli.Lines(w, fmt.Sprintf("%-8s %.1f s: %s", e.Step, e.Took.Seconds(), e.Detail)))
	}
}

func (f *templateFlags) tell(w io.Writer, r template.Result) error {
	if f.json {
		return writeJSON(w, struct {
			Name     string          `json:"name"`
			VMID     int             `json:"vmid"`
			Node     string          `json:"node"`
			Existing bool            `json:"existing"`
			Steps    []template.Step `json:"steps"`
			Left     []string        `json:"left,omitempty"`
		}{r.Name, r.VM.ID, r.VM.Node, r.Existing, r.Steps, r.Left})
	}
	what := "is ready"
	if r.Existing {
		what = "was there already"
	}
	_, err := fmt.Fprintf(w, "template %s %s: VM %s\nagentlab proxmox setup --apply --template %s gives AgentLab what it needs to use it\n", r.Name, what, r.VM, r.Name)
	return err
}
