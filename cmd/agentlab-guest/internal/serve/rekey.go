package serve

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
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
// generation, and returns the first session of the next one; see guest.Rekey. The
// keys come last: if anything fails, the channel stays whose it was, and it can be
// done again. To end the generation from is the caller's.
func (s *Server) rekey(from *generation, to guest.Rekey) (wire.RekeyResult, *hostSession, error) {
	s.rekeying.Lock()
	defer s.rekeying.Unlock()
	var none wire.RekeyResult
	k := keys{to.HostKey, to.ClientKey, to.Session}
	switch now := s.current.Load(); {
	case from != now:
		return none, nil, errors.New("the channel is of an earlier generation")
	case to.Session == nil:
		return none, nil, errors.New("there is no session to go on with")
	case to.Generation < now.n, to.Generation == now.n && !now.has(k):
		return none, nil, fmt.Errorf("generation %d of the keys: the guest has %d", to.Generation, now.n)
	case !proc.Idle():
		return none, nil, errors.New("a command still runs")
	}
	next, err := newGeneration(s.ctx, to.Generation, k)
	if err != nil {
		return none, nil, err
	}
	if err := s.Table.Forget(); err != nil {
		next.end()
		return none, nil, fmt.Errorf("forget processes: %w", err)
	}
	result, err := s.identify(to)
	if err != nil {
		next.end()
		return none, nil, err
	}
	return result, s.switchTo(next, handshakeTime), nil
}

// Rehearse does what a re-key does, but for the host name, with keys and names
// that are thrown away: what runs for the first time must be brought into memory,
// page by page, and somebody waits for the re-key. Nobody waits for this.
func (s *Server) Rehearse() error {
	random := make([]byte, ed25519.SeedSize)
	_, _ = rand.Read(random) // never fails (crypto/rand)
	text, err := json.Marshal(guest.Rekey{
		HostKey: random, ClientKey: random, Session: wire.MakeSession().Payload(),
		MachineID: hex.EncodeToString(random[:16]), Random: random,
	})
	if err != nil {
		return err
	}
	result, err := call(wire.Request{Op: wire.OpRekey, Args: text}, func(to guest.Rekey) (any, error) {
		g, err := newGeneration(s.ctx, to.Generation, keys{to.HostKey, to.ClientKey, to.Session})
		if err != nil {
			return nil, err
		}
		g.end()
		id, err := writeMachineID(to.MachineID)
		return wire.RekeyResult{MachineID: id}, errors.Join(err, stir(to.Random))
	})
	if err != nil {
		return err
	}
	_, err = encode(wire.Answer{}, result)
	return err
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
// nobody is there who could read a part, and with no call of the system that can
// be spared: in gVisor they are what a re-key takes. Most of all to cut the file
// off before it is written, which gives its page back and takes another.
func writeMachineID(id string) (got string, err error) {
	const flags = unix.O_RDWR | unix.O_CREAT | unix.O_CLOEXEC
	fd, err := unix.Open(machineIDFile, flags, 0o444)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(machineIDFile), 0o755); err != nil {
			return "", err
		}
		fd, err = unix.Open(machineIDFile, flags, 0o444)
	}
	if err != nil {
		return "", err
	}
	line := id + "\n"
	text := make([]byte, len(line)+1) // one more, to see what is longer
	_, err = unix.Write(fd, []byte(line))
	n, rerr := unix.Pread(fd, text, 0)
	if n > len(line) {
		n, rerr = len(line), errors.Join(rerr, unix.Ftruncate(fd, int64(len(line))))
	}
	return strings.TrimSpace(string(text[:max(n, 0)])), errors.Join(err, rerr, unix.Close(fd))
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
