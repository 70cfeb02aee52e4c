package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/gofrs/flock"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/agentlab-mcp/agentlab/internal/config"
	"github.com/agentlab-mcp/agentlab/internal/failpoint"
	"github.com/agentlab-mcp/agentlab/internal/obs"
	"github.com/agentlab-mcp/agentlab/internal/otlp"
	"github.com/agentlab-mcp/agentlab/internal/redact"
	"github.com/agentlab-mcp/agentlab/internal/span"
	"github.com/agentlab-mcp/agentlab/mcpserver"
	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/tools"
)

func newServeCommand(locate func() (config.Paths, error)) *cobra.Command {
	var auto bool
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the daemon that keeps the sandboxes",
		Long: `Run the daemon that keeps the sandboxes. It listens on a Unix socket that only
its user can reach, and on http_listen if that is configured, and ends on SIGTERM
or SIGINT; sandboxes go on, and the next daemon finds them.

With --auto, as agentlab mcp starts it, it logs to the state directory and ends
by itself when it has had neither sandbox nor client for idle_exit, unless it
listens on http_listen.
` + exitCodes,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if starter := os.Getenv(starterEnv); starter != "" {
				return fail(exitFailed, fmt.Errorf("%s is set: the daemon of this installation is started by %s", starterEnv, starter))
			}
			paths, err := locate()
			if err != nil {
				return fail(exitFailed, err)
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			d := daemon{paths: paths, auto: auto, points: points()}
			return fail(exitFailed, d.run(ctx, cmd.ErrOrStderr()))
		},
	}
	cmd.Flags().BoolVar(&auto, "auto", false, "run as agentlab mcp starts it")
	return cmd
}

// points are the fail-points that a test has set; nil for anybody else.
func points() *failpoint.Points { return failpoint.New(failpoint.Dir(os.Getenv(failpoint.Env))) }

// daemon serves an installation on its socket.
type daemon struct {
	paths  config.Paths
	auto   bool
	points *failpoint.Points
}

// lingering is how long the locks of a daemon that was killed may outlive it: what
// it was about to start has them, too, until it is executed.
const lingering = 2 * time.Second

// handover is how long a daemon waits for another, that is ending, to end: it
// lets its calls end first.
func handover(configFile string) time.Duration {
	cfg, err := config.Load(configFile)
	if err != nil {
		cfg = config.Default()
	}
	return cfg.Grace + 5*time.Second
}

// run serves until ctx ends or, for one that a bridge started, nobody needs it.
func (d *daemon) run(ctx context.Context, stderr io.Writer) (err error) {
	dir, err := config.OpenDir(d.paths.Runtime, config.RuntimeMode)
	if err != nil {
		return fail(exitUnsafe, err)
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	in := &installation{paths: d.paths, level: new(slog.LevelVar), turn: make(chan struct{}, 1), points: d.points}
	lock, err := d.lock(ctx, dir, in)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.close(), lock.Close()) }()

	log, ready := stderr, func() error { return nil }
	if d.auto {
		file, err := openLog(in.state)
		if err != nil {
			return err
		}
		defer func() { _ = file.Close() }()
		log, ready = file, func() error {
			go keepLog(ctx, in.state, file)
			return detach(file)
		}
	}
	in.log = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: in.level, ReplaceAttr: redact.Attr}))
	cfg, err := config.Load(in.paths.Config)
	if err != nil {
		in.log.Error("the configuration is broken, so nothing is served over HTTP", "error", err)
		cfg = config.Default() // each call tells what is wrong
		cfg.Profiles = nil     // no client must believe that there is but the default
	}
	ls, err := d.listen(ctx, dir, cfg, in)
	if err != nil {
		return err
	}
	if err := ready(); err != nil {
		return errors.Join(err, ls.close())
	}
	in.log.Info("serving", "version", version(), "installation", in.note())
	err = d.traced(ctx, in, cfg, ls)
	in.log.Info("ended", "error", err)
	return err
}

// listeners are where a daemon is asked.
type listeners struct {
	socket  *net.UnixListener
	web     *web         // nil is none
	metrics net.Listener // nil is none
}

// listen listens everywhere or nowhere.
func (d *daemon) listen(ctx context.Context, dir *os.File, cfg config.Config, in *installation) (ls listeners, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, ls.close())
		}
	}()
	if ls.web, err = listenHTTP(ctx, cfg, in, in.log); err != nil {
		return ls, err
	}
	if ls.metrics, err = listenMetrics(ctx, cfg.MetricsListen, in.log); err != nil {
		return ls, err
	}
	err = d.points.Around("listen", func() (err error) {
		ls.socket, err = listen(dir, d.paths.Socket)
		return err
	})
	return ls, fail(exitUnsafe, err)
}

func (ls listeners) close() error {
	errs := []error{ls.web.close()}
	if ls.metrics != nil {
		errs = append(errs, ls.metrics.Close())
	}
	if ls.socket != nil {
		errs = append(errs, ls.socket.Close())
	}
	return errors.Join(errs...)
}

// lock makes sure that we are the only daemon on this socket and, if it can be
// used at all, of this state directory. Any other trouble with the latter is
// for the clients to hear.
func (d *daemon) lock(ctx context.Context, dir *os.File, in *installation) (*flock.Flock, error) {
	wait := lingering
	if d.auto {
		wait = handover(d.paths.Config)
	}
	lock, err := hold(ctx, dir, d.paths.Socket+".lock", in.note(), wait)
	var held errHeld
	switch {
	case errors.As(err, &held):
		return nil, fail(exitHeld, err)
	case err != nil:
		return nil, fail(exitUnsafe, err)
	}
	if err := in.lockState(ctx, wait); errors.As(err, &held) {
		return nil, errors.Join(fail(exitHeld, err), in.close(), lock.Close())
	}
	return lock, nil
}

// traced is serve with traces of it, if they are to be sent anywhere. A collector
// that is named wrongly keeps nobody from sandboxes.
func (d *daemon) traced(ctx context.Context, in *installation, cfg config.Config, ls listeners) error {
	const lastSend = 5 * time.Second
	tracer, flush, err := openTraces(ctx, cfg.Traces, in.log)
	if err != nil {
		in.log.Error("nothing is traced", "err", err)
	}
	err = d.serve(ctx, in, cfg, ls, tracer)
	if flush == nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastSend)
	defer cancel()
	if err := flush(ctx); err != nil { // a collector that hangs makes no end a failure
		in.log.Warn("the last traces can't be sent and are lost", "err", err)
	}
	return err
}

// openTraces returns who traces requests and what sends the last of it; nil is
// that nothing is traced.
func openTraces(ctx context.Context, t config.Traces, log *slog.Logger) (*span.Tracer, func(context.Context) error, error) {
	to, headers, err := t.Collector(os.Getenv)
	if err != nil || to == "" {
		return nil, nil, err
	}
	log.Info("tracing", "collector", to)
	return otlp.Open(ctx, otlp.Collector{URL: to, Headers: headers}, version(), log)
}

// serve runs what a daemon does until one part of it ends. One that serves over
// HTTP does not end because nobody asks.
func (d *daemon) serve(ctx context.Context, in *installation, cfg config.Config, ls listeners, tracer *span.Tracer) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	server, watch := newServer(in, cfg)
	server.Trace = tracer
	door := &door{Listener: ls.socket}
	var keeper errgroup.Group // of the sandboxes, which the last calls still use
	kept, letGo := context.WithCancel(context.WithoutCancel(ctx))
	keeper.Go(func() error {
		defer stop()
		return in.run(kept)
	})
	group, ctx := errgroup.WithContext(ctx)
	if ls.metrics != nil {
		group.Go(func() error {
			defer stop()
			return watch.Serve(ctx, ls.metrics)
		})
	}
	group.Go(func() error {
		defer stop()
		return server.ServeListener(ctx, door)
	})
	if ls.web != nil {
		group.Go(func() error {
			defer stop()
			return ls.web.serve(ctx, server)
		})
	}
	if d.auto && ls.web == nil {
		group.Go(func() error {
			defer stop()
			return untilIdle(ctx, cfg.IdleExit, in, door, server.Clients)
		})
	}
	err := group.Wait()
	letGo()
	return errors.Join(err, keeper.Wait())
}

// newServer returns the server of an installation, which need not be open yet.
func newServer(in *installation, cfg config.Config) (*mcpserver.Server, *obs.Watch) {
	server := &mcpserver.Server{
		Tools:        allTools(in, cfg.Recipes()),
		Resources:    tools.AllResources(in.Manager, in.log),
		Prompts:      tools.AllPrompts(in.log),
		Completer:    tools.NewCompleter(in.Manager, in.log),
		Files:        &tools.Files{Open: in.Manager},
		Terminals:    &tools.Terminals{Open: in.Manager, Log: in.log},
		Instructions: tools.Instructions(cfg.Recipes()),
		Version:      version(),
		Log:          in.log,
		Grace:        cfg.Grace,
		Record:       in.record,
	}
	watch := obs.New(obs.Daemon{
		Version: version(), Clients: server, Store: in.records, Stuck: in.stuck, Load: in.load, State: in.paths.State, Log: in.log,
	})
	server.Watch = watch
	in.revoked, in.watch = server.End, watch
	in.define = func(list []sessions.Profile) { server.Define(allTools(in, list), tools.Instructions(list)) }
	return server, watch
}

// allTools returns those of an installation with these profiles.
func allTools(in *installation, profiles []sessions.Profile) []tools.Tool {
	return append(tools.All(in.Manager, profiles, in.log), tools.Admin(in.Manager, in.Tokens, in.log)...)
}
