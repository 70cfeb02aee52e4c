package local

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/guest/sshguest"
)

const (
	bootPoll  = time.Millisecond       // between looks for the socket of a booting guest
	alivePoll = 100 * time.Millisecond // between looks whether it is still alive
)

// errNotRunning: somebody listens, but runsc does not say that the machine runs.
var errNotRunning = errors.New("machine does not run")

// errSocket: what is at the socket's place is not a socket.
var errSocket = errors.New("not a socket")

// freshFor is how long a connection that Dial made may wait for its first use:
// the guest does not wait for ever for its caller to say who it is.
const freshFor = time.Second

// Dial implements [provisioner.Provisioner].
func (p *Provisioner) Dial(ctx context.Context, ref provisioner.Ref) (guest.Conn, error) {
	conn, err := p.dial(ctx, ref)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", ref.Sandbox, err)
	}
	return conn, nil
}

func (p *Provisioner) dial(ctx context.Context, ref provisioner.Ref) (guest.Conn, error) {
	st, err := p.state()
	if err != nil {
		return nil, err
	}
	b, err := p.find(st, ref)
	if err != nil {
		return nil, err
	}
	cfg, err := p.channel(st, ref.Sandbox, b.papers.Keys)
	if err != nil {
		return nil, err
	}
	raw, err := st.connect(ctx, ref.Sandbox)
	if err != nil {
		return nil, err
	}
	first := &freshConn{conn: raw, until: time.Now().Add(freshFor)}
	again := cfg.Dial
	cfg.Dial = func(ctx context.Context) (net.Conn, error) {
		if c := first.take(); c != nil {
			return c, nil
		}
		return again(ctx)
	}
	return sshguest.New(cfg), nil
}

// channel returns how machine id is reached that was re-keyed n times.
func (p *Provisioner) channel(st *state, id string, n int) (sshguest.Config, error) {
	keys, err := p.channelKeys(id, n)
	if err != nil {
		return sshguest.Config{}, err
	}
	return st.channel(id, keys)
}

// channel returns how machine id is reached that has those keys.
func (st *state) channel(id string, keys channelKeys) (sshguest.Config, error) {
	hostKey, err := ssh.NewPublicKey(keys.host.Public())
	if err != nil {
		return sshguest.Config{}, fmt.Errorf("host key: %w", err)
	}
	signer, err := ssh.NewSignerFromSigner(keys.client)
	if err != nil {
		return sshguest.Config{}, fmt.Errorf("client key: %w", err)
	}
	cfg := sshguest.Config{
		Dial:    func(ctx context.Context) (net.Conn, error) { return st.connect(ctx, id) },
		User:    "root",
		HostKey: hostKey,
		Signer:  signer,
	}
	if _, fresh := st.fresh.LoadAndDelete(id); fresh {
		cfg.Session = keys.session
	}
	return cfg, nil
}

// freshConn is a connection that is good for one use within a time.
type freshConn struct {
	mu    sync.Mutex
	conn  net.Conn
	until time.Time
}

func (f *freshConn) take() net.Conn {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.conn
	f.conn = nil
	if c != nil && time.Now().After(f.until) {
		c.Close()
		return nil
	}
	return c
}

// connect connects to the socket of machine id, waiting until ctx ends for the
// guest to listen on it, or until the machine is dead.
func (st *state) connect(ctx context.Context, id string) (net.Conn, error) {
	poll := time.NewTicker(bootPoll)
	defer poll.Stop()
	look := time.Now().Add(alivePoll)
	for {
		conn, err := st.connectNow(ctx, id)
		if err == nil {
			var running bool
			if running, err = st.running(id); running {
				st.takeBootLog(id) // it would say why there is no connection
				return conn, nil
			}
			if err == nil { // a dead sandbox's socket lives a moment longer; a starting one's is early
				err = errNotRunning
			}
			err = errors.Join(err, conn.Close())
		}
		if errors.Is(err, errSocket) {
			return nil, fmt.Errorf("connect to guest: %w: %w", err, guest.ErrUnreachable)
		}
		if now := time.Now(); now.After(look) {
			look = now.Add(alivePoll)
			if err := st.dead(id); err != nil {
				return nil, err
			}
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for guest to boot: %w: %w: %w", err, context.Cause(ctx), guest.ErrUnreachable)
		case <-poll.C:
		}
	}
}

// dead returns nil while machine id lives, else an error that tells its last
// words.
func (st *state) dead(id string) error {
	if !exists(st.machineDir(id)) {
		return provisioner.ErrNotFound
	}
	procs, err := st.processes()
	if err != nil {
		return err
	}
	for _, proc := range procs[id] {
		if proc.sentry || proc.starts {
			return nil
		}
	}
	said := st.takeBootLog(id)
	if said == "" {
		said = "it printed nothing"
	}
	return fmt.Errorf("the machine is dead: %s: %w", said, guest.ErrUnreachable)
}

// connectNow connects to the socket in the directory that machine id shares
// with the host. The guest may put there what it likes, so it is opened
// without following a link and only if it is a socket; through the descriptor
// its path may be of any length.
func (st *state) connectNow(ctx context.Context, id string) (net.Conn, error) {
	dir, err := unix.Open(filepath.Join(st.machineDir(id), runDir), unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(dir)
	fd, err := unix.Openat(dir, guest.Socket, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	socket := os.NewFile(uintptr(fd), guest.Socket)
	defer socket.Close()
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return nil, err
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return nil, fmt.Errorf("%s: %w", guest.Socket, errSocket)
	}
	if stat.Uid != uint32(st.uid) && (st.uid != 0 || stat.Uid != nobody) {
		return nil, fmt.Errorf("%s: of user %d, %w of the guest's", guest.Socket, stat.Uid, errSocket)
	}
	var d net.Dialer
	return d.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d", fd))
}
