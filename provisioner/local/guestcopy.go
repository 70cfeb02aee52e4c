package local

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
)

// guestCopyPrefix begins the names of our copies of agentlab-guest among the
// root file systems.
const guestCopyPrefix = "agentlab-guest-"

// guestCopy is the copy of agentlab-guest that was made last, and of what.
type guestCopy struct {
	sync.Mutex
	of   os.FileInfo
	path string
}

// guestBinary returns a copy of the program at path that machines can reach
// and that is theirs: the installation may lie below a directory that nobody,
// whom root's machines run as, can't pass, and an upgrade replaces it. The copy
// is named by its contents and made once.
func (st *state) guestBinary(path string) (string, error) {
	st.guest.Lock()
	defer st.guest.Unlock()
	now, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if of := st.guest.of; of != nil && os.SameFile(of, now) && of.ModTime().Equal(now.ModTime()) && exists(st.guest.path) {
		return st.guest.path, touch(st.guest.path)
	}
	made, err := st.copyGuest(path)
	if err != nil {
		return "", fmt.Errorf("copy %s: %w", path, err)
	}
	st.guest.of, st.guest.path = now, made
	return made, nil
}

func (st *state) copyGuest(path string) (_ string, err error) {
	src, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = src.Close() }()
	temp, err := os.CreateTemp(st.rootfsDir(), tempPrefix)
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(temp.Name())
		}
	}()
	sum := sha256.New()
	err = st.step("local copy guest", func() error {
		_, err := io.Copy(io.MultiWriter(temp, sum), src)
		return errors.Join(err, temp.Chmod(0o755), temp.Sync(), temp.Close())
	})
	if err != nil {
		return "", err
	}
	made := filepath.Join(st.rootfsDir(), guestCopyPrefix+hex.EncodeToString(sum.Sum(nil)[:16]))
	return made, st.step("local name guest", func() error { return os.Rename(temp.Name(), made) })
}
