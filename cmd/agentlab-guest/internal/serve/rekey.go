package serve

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/agentlab-mcp/agentlab/cmd/agentlab-guest/internal/proc"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/guest/wire"
)

const machineIDFile = "/etc/machine-id" // machine-id(5)

// rekey makes the machine another's, as a host asks for on a channel of a
// generation; see guest.Rekey. The keys come last: if anything fails, the channel
// stays whose it was, and it can be done again.
func (s *Server) rekey(from *generation, to guest.Rekey) (wire.RekeyResult, error) {
	s.rekeying.Lock()
	defer s.rekeying.Unlock()
	var none wire.RekeyResult
	k := keys{to.HostKey, to.ClientKey, to.Session}
	switch now := s.current.Load(); {
	case from != now:
		return none, errors.New("the channel is of an earlier generation")
	case to.Generation < now.n, to.Generation == now.n && !now.has(k):
		return none, fmt.Errorf("generation %d of the keys: the guest has %d", to.Generation, now.n)
	case !proc.Idle():
		return none, errors.New("a command still runs")
	}
	next, err := newGeneration(s.ctx, to.Generation, k)
	if err != nil {
		return none, err
	}
	if err := s.Table.Forget(); err != nil {
		next.end()
		return none, fmt.Errorf("forget processes: %w", err)
	}
	result, err := s.identify(to)
	if err != nil {
		next.end()
		return none, err
	}
	s.switchTo(next, handshakeTime)
	return result, nil
}

// identify gives the machine its names and random bytes, and reads the names back.
func (s *Server) identify(to guest.Rekey) (got wire.RekeyResult, err error) {
	rename := s.Host.Rename
	if rename == nil {
		rename = func(name string) error { return unix.Sethostname([]byte(name)) }
	}
	if err := rename(to.Hostname); err != nil {
		return got, fmt.Errorf("set host name: %w", err)
	}
	if got.Hostname, err = os.Hostname(); err != nil {
		return got, err
	}
	if got.MachineID, err = writeMachineID(to.MachineID); err != nil {
		return got, fmt.Errorf("set machine-id: %w", err)
	}
	if err := stir(to.Random); err != nil {
		return got, fmt.Errorf("stir random numbers: %w", err)
	}
	return got, nil
}

// writeMachineID returns what the file holds then. It is written in place, since
// nobody is there who could read a part.
func writeMachineID(id string) (got string, err error) {
	if err := os.MkdirAll(filepath.Dir(machineIDFile), 0o755); err != nil {
		return "", err
	}
	f, err := os.OpenFile(machineIDFile, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o444)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if _, err := f.WriteString(id + "\n"); err != nil {
		return "", err
	}
	text := make([]byte, 2*len(id))
	n, err := f.ReadAt(text, 0)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return strings.TrimSpace(string(text[:n])), err
}

// stir adds to the random numbers of the kernel: random(4). Who adds takes
// nothing away, whatever it is.
func stir(random []byte) error {
	fd, err := unix.Open("/dev/urandom", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	_, err = unix.Write(fd, random)
	return errors.Join(err, unix.Close(fd))
}
