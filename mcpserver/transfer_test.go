package mcpserver_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/agentlab-mcp/agentlab/mcpserver"
)

// What waits for a client that neither sends nor reads ends at once when it must,
// and not only when the client's time is over.
func TestTransferEndsWithItsContext(t *testing.T) {
	gone := errors.New("it is gone")
	for name, move := range map[string]func(context.Context, *mcpserver.Server, http.ResponseWriter, *http.Request) error{
		"upload": mcpserver.ReceiveAll, "download": mcpserver.SendMuch,
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			s := &mcpserver.Server{WriteTimeout: time.Hour}
			ended := make(chan error, 1)
			far := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				ended <- move(ctx, s, rw, r)
			}))
			defer far.Close()
			r, w := io.Pipe()
			defer w.Close()
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, far.URL, r)
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				res, err := http.DefaultClient.Do(req)
				if err != nil {
					return
				}
				if _, err := io.ReadFull(res.Body, make([]byte, 1)); err == nil { // it is being sent
					cancel(gone)
				}
				t.Cleanup(func() { res.Body.Close() })
			}()
			if _, err := w.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if name == "upload" {
				cancel(gone)
			} else { // net/http reads what is asked before it answers
				w.Close()
			}
			select {
			case err := <-ended:
				if err == nil || name == "upload" && !errors.Is(err, gone) {
					t.Errorf("error %v", err)
				}
			case <-time.After(soon):
				t.Error("it goes on")
				w.CloseWithError(io.ErrUnexpectedEOF)
				far.CloseClientConnections()
			}
		})
	}
}

// A download that must end between two pieces of the file was not a whole one.
func TestDownloadEndsBetweenPieces(t *testing.T) {
	gone := errors.New("it is gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(gone)
	rw := httptest.NewRecorder()
	if err := mcpserver.SendLate(ctx, &mcpserver.Server{WriteTimeout: time.Hour}, rw); !errors.Is(err, gone) || rw.Body.Len() != 0 {
		t.Errorf("it went no further since %v, after %d bytes; want %v and none", err, rw.Body.Len(), gone)
	}
}
