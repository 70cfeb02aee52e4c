package wire

import (
	"context"
	"io"
)

// batch is how many bytes of frames are sent at once.
const batch = 32 << 10

// Sender sends frames from many goroutines over one stream. Those that wait
// while one is being sent go together: under load a packet carries several.
type Sender struct {
	queue chan []byte
	done  chan struct{}
}

// NewSender returns a Sender on w that works until stop is closed or w fails,
// when it calls failed.
func NewSender(w io.Writer, stop <-chan struct{}, failed func(error)) *Sender {
	s := &Sender{queue: make(chan []byte), done: make(chan struct{})}
	go s.loop(w, stop, failed)
	return s
}

// Send hands frame over. With an error it certainly never left.
func (s *Sender) Send(ctx context.Context, frame []byte) error {
	select {
	case s.queue <- frame:
		return nil
	case <-s.done:
		return io.ErrClosedPipe
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Sender) loop(w io.Writer, stop <-chan struct{}, failed func(error)) {
	defer close(s.done)
	for {
		select {
		case b := <-s.queue:
			if _, err := w.Write(s.more(b)); err != nil {
				failed(err)
				return
			}
		case <-stop:
			return
		}
	}
}

// more adds to b what is waiting.
func (s *Sender) more(b []byte) []byte {
	for len(b) < batch {
		select {
		case next := <-s.queue:
			b = append(b, next...)
		default:
			return b
		}
	}
	return b
}
