package terminal

import (
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// ErrBroke is that the connection ended before the command was said to have.
var ErrBroke = errors.New("the daemon went away, and with it the command")

// Client runs one command over a connection to the daemon.
type Client struct {
	conn io.ReadWriter
	to   *Writer
}

// NewClient returns a Client on conn, which is its caller's to close: that is how a
// command is killed.
func NewClient(conn io.ReadWriter) *Client { return &Client{conn: conn, to: NewWriter(conn)} }

// Resize says that the terminal has another size. It fails with the connection.
func (c *Client) Resize(s Size) error { return c.to.SendJSON(Resize, s) }

// Start asks for what req says. Before it returns, nothing else may be called.
func (c *Client) Start(req Request) error {
	kind := Start
	if req.Service != nil {
		kind = Serve
	}
	if !utf8.ValidString(req.Command) { // JSON would change it
		return fmt.Errorf("command %.100q: it is not in UTF-8", req.Command)
	}
	err := c.to.SendJSON(kind, req)
	if errors.Is(err, errTooLong) {
		return fmt.Errorf("command of %d bytes: it is too long, with its variables %d KiB are allowed; give a script on standard input", len(req.Command), MaxPart>>10)
	}
	if err != nil {
		return fmt.Errorf("ask the daemon: %w", err)
	}
	return nil
}

// Run joins the streams to what was started until that ends. It reads in when there
// is room for more; one Read may be under way when it returns.
//
// Errors: a Failure, ErrBroke, and what out and errs return.
func (c *Client) Run(in io.Reader, out, errs io.Writer) (Exit, error) {
	room := make(chan struct{}, 1)
	defer close(room)
	go c.feed(in, room)
	for {
		kind, part, err := Read(c.conn)
		if err != nil {
			return Exit{}, ErrBroke
		}
		switch kind {
		case More:
			select {
			case room <- struct{}{}:
			default:
			}
		case Output:
			_, err = out.Write(part)
		case ErrOut:
			_, err = errs.Write(part)
		case Exited:
			return Decode[Exit](part)
		case Failed:
			f, err := Decode[Failure](part)
			if err == nil {
				err = f
			}
			return Exit{}, err
		default: // is for the daemon
		}
		if err != nil {
			return Exit{}, err
		}
	}
}

// feed sends what in gives, as there is room for it, until its end.
func (c *Client) feed(in io.Reader, room <-chan struct{}) {
	part := make([]byte, MaxPart)
	for range room {
		var n int
		var err error
		for n == 0 && err == nil {
			n, err = in.Read(part)
		}
		if n == 0 {
			_ = c.to.Send(EOF, nil) // fails with the connection
			return
		}
		if c.to.Send(Input, part[:n]) != nil {
			return
		}
	}
}
