// Package sshd lets an SSH client of others work in one sandbox: an SSH server on
// the streams that the client's ProxyCommand gives it. It has neither a user nor a
// network to guard against: whoever starts it is the user, and what it is asked for
// is a terminal of the daemon (package terminal), which guards, limits and records.
//
// There are commands, terminals, SFTP, and connections to ports of the sandbox's own
// loopback. All else is refused.
package sshd

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"io"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/agentlab-mcp/agentlab/internal/terminal"
	"github.com/agentlab-mcp/agentlab/provisioner/guest/wire"
)

// DefaultUser is whom a client logs in as to be the sandbox's own user. Every other
// name is that of a user there.
const DefaultUser = "agentlab"

const (
	// maxChannels is how many channels there may be at a time. Each is a call that
	// works in the sandbox, of which others need some too.
	maxChannels = 64
	// handshakeTime is long: nobody else can be kept waiting.
	handshakeTime = time.Minute
)

// Server serves one client. All fields are required.
type Server struct {
	Key     ed25519.PrivateKey                                    // that the client knows
	Sandbox string                                                // its id
	Open    func(ctx context.Context) (io.ReadWriteCloser, error) // a connection to the daemon, for one terminal
	Explain func(err error) (text string)                         // what a person is told of an error of Open or of package terminal
}

// Serve serves the client at the other end of stream, which it closes, until that
// closes it or ctx ends. All that was begun has ended then.
func (s *Server) Serve(ctx context.Context, stream io.ReadWriteCloser) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	signer, err := ssh.NewSignerFromSigner(s.Key)
	if err != nil {
		return fmt.Errorf("host key: %w", err)
	}
	nc := wire.Channel(stream)
	defer nc.Close()
	defer context.AfterFunc(ctx, func() { _ = nc.Close() })()
	if err := nc.SetDeadline(time.Now().Add(handshakeTime)); err != nil {
		return err
	}
	cfg := &ssh.ServerConfig{NoClientAuth: true, ServerVersion: "SSH-2.0-AgentLab"}
	cfg.AddHostKey(signer)
	conn, channels, requests, err := ssh.NewServerConn(nc, cfg)
	if err != nil {
		return fmt.Errorf("SSH client: %w", err)
	}
	if err := nc.SetDeadline(time.Time{}); err != nil {
		return err
	}
	go ssh.DiscardRequests(requests) // such as to forward ports of the sandbox to here
	c := &client{Server: s, user: conn.User()}
	if c.user == DefaultUser {
		c.user = ""
	}
	c.serve(ctx, cancel, channels)
	return nil
}

// KnownHost is the line of a known_hosts file with the key, under a name.
func KnownHost(name string, key ed25519.PrivateKey) (string, error) {
	public, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		return "", fmt.Errorf("host key: %w", err)
	}
	return name + " " + string(ssh.MarshalAuthorizedKey(public)), nil
}

// client is who has connected.
type client struct {
	*Server
	user string // as terminal.Request has it
}

// serve serves its channels until there are no more, and waits for them.
func (c *client) serve(ctx context.Context, cancel context.CancelFunc, channels <-chan ssh.NewChannel) {
	slots := make(chan struct{}, maxChannels)
	for nc := range channels {
		select {
		case slots <- struct{}{}:
		default:
			_ = nc.Reject(ssh.ResourceShortage, fmt.Sprintf("there are %d channels, the most there may be at a time", maxChannels))
			continue
		}
		go func() {
			defer func() { <-slots }()
			c.channel(ctx, nc)
		}()
	}
	cancel()
	for range maxChannels {
		slots <- struct{}{}
	}
}

// channel serves one channel to its end. Who refuses it can't fail but with the connection.
func (c *client) channel(ctx context.Context, nc ssh.NewChannel) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	switch nc.ChannelType() {
	case "session":
		c.session(ctx, nc)
	case "direct-tcpip":
		c.forward(ctx, cancel, nc)
	default:
		_ = nc.Reject(ssh.UnknownChannelType, "there are sessions, and connections to TCP ports of the sandbox")
	}
}

// begin begins what req asks for. It is ended by closing the connection, which ctx
// does at the latest.
func (c *client) begin(ctx context.Context, req terminal.Request) (*terminal.Client, io.Closer, error) {
	conn, err := c.Open(ctx)
	if err != nil {
		return nil, nil, err
	}
	context.AfterFunc(ctx, func() { _ = conn.Close() })
	req.Sandbox, req.User = c.Sandbox, c.user
	t := terminal.NewClient(conn)
	if err := t.Start(req); err != nil {
		_ = conn.Close()
		return nil, nil, err
	}
	return t, conn, nil
}

// explain is what a person sees of an error.
func (c *client) explain(err error) string {
	return strings.ReplaceAll("agentlab: "+c.Explain(err)+"\n", "\n", "\r\n") // also where the terminal is raw
}
