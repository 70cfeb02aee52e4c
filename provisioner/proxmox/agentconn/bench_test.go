package agentconn_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/agentconn"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// counted is a server that counts agent calls.
func counted(calls *atomic.Int64) *pvetest.Server {
	return &pvetest.Server{Fail: func(r *http.Request) *pvetest.Fault {
		if strings.Contains(r.URL.Path, "/agent/") {
			calls.Add(1)
		}
		return nil
	}}
}

// BenchmarkExec is what the exec tool does, over a Proxmox that answers agent
// calls at once or after a while.
func BenchmarkExec(b *testing.B) {
	for _, latency := range []time.Duration{0, 20 * time.Millisecond, 100 * time.Millisecond} {
		b.Run(fmt.Sprint(latency), func(b *testing.B) {
			var calls atomic.Int64
			srv := counted(&calls)
			srv.Hold = func(r *http.Request) func() {
				if strings.Contains(r.URL.Path, "/agent/") {
					time.Sleep(latency)
				}
				return func() {}
			}
			m := boot(b, srv)
			c := m.conn(b, "")
			exec := func() {
				_, out, err := c.Processes().Start(b.Context(), guest.Cmd{Args: []string{"sh", "-c", "echo hello"}},
					guest.StartOptions{Wait: time.Minute, Max: 1000})
				check(b, err)
				if out.Stdout.Total != 6 {
					b.Fatalf("output %+v", out)
				}
			}
			exec()
			calls.Store(0)
			for b.Loop() {
				exec()
			}
			b.ReportMetric(float64(calls.Load())/float64(b.N), "calls/op")
		})
	}
}

// BenchmarkOutput has a command write 200 MB, of which gzip can make nothing or
// much: streamed by Run, and kept by Start, of which only both ends come here.
func BenchmarkOutput(b *testing.B) {
	const size = 200_000_000
	for _, from := range []string{"yes", "cat /dev/urandom"} {
		cmd := guest.Cmd{Args: []string{"sh", "-c", fmt.Sprintf("%s | head -c %d", from, size)}}
		for name, output := range map[string]func(*agentconn.Conn) (int64, error){
			"run": func(c *agentconn.Conn) (int64, error) {
				var n written
				_, err := c.Run(b.Context(), cmd, guest.Streams{Stdout: &n})
				return int64(n), err
			},
			"start": func(c *agentconn.Conn) (int64, error) {
				_, out, err := c.Processes().Start(b.Context(), cmd, guest.StartOptions{Wait: time.Hour, Max: 30_000})
				return out.Stdout.Total, err
			},
		} {
			b.Run(strings.Fields(from)[0]+"/"+name, func(b *testing.B) {
				var calls atomic.Int64
				m := boot(b, counted(&calls))
				c := m.conn(b, "")
				b.SetBytes(size)
				for b.Loop() {
					n, err := output(c)
					check(b, err)
					if n != size {
						b.Fatalf("%d bytes", n)
					}
				}
				b.ReportMetric(float64(calls.Load())/float64(b.N), "calls/op")
			})
		}
	}
}

type written int64

func (w *written) Write(p []byte) (int, error) { *w += written(len(p)); return len(p), nil }

// BenchmarkFile writes and reads 1 GiB, of which gzip can make much or nothing,
// and sees that it is the same.
func BenchmarkFile(b *testing.B) {
	const size = 1 << 30
	for name, content := range map[string]io.Reader{"zeros": zeros{}, "noise": rand.NewChaCha8([32]byte{})} {
		b.Run(name, func(b *testing.B) {
			var calls atomic.Int64
			m := boot(b, counted(&calls))
			c := m.conn(b, "")
			b.SetBytes(2 * size)
			var written, read time.Duration
			for b.Loop() {
				began := time.Now()
				sent, back := sha256.New(), sha256.New()
				_, err := c.WriteFile(b.Context(), "/home/big", io.TeeReader(io.LimitReader(content, size), sent), guest.WriteOptions{})
				check(b, err)
				written += time.Since(began)
				r, _, err := c.ReadFile(b.Context(), "/home/big", 0, -1)
				check(b, err)
				n, err := io.Copy(back, r)
				check(b, err)
				if n != size || !bytes.Equal(sent.Sum(nil), back.Sum(nil)) {
					b.Fatalf("%d bytes, or others than were written", n)
				}
				check(b, r.Close())
				read += time.Since(began)
			}
			read -= written
			b.ReportMetric(float64(calls.Load())/float64(b.N), "calls/op")
			b.ReportMetric(residentMB(b), "MB-resident-at-most")
			b.ReportMetric(float64(b.N)*size/1e6/written.Seconds(), "MB/s-written")
			b.ReportMetric(float64(b.N)*size/1e6/read.Seconds(), "MB/s-read")
		})
	}
}

// residentMB is the most memory that this process had, the simulator included.
func residentMB(b *testing.B) float64 {
	b.Helper()
	text, err := os.ReadFile("/proc/self/status")
	check(b, err)
	_, rest, _ := strings.Cut(string(text), "VmHWM:")
	kb, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
	check(b, err)
	return kb / 1000
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
