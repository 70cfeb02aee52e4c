package config

import (
	"context"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

// Watch follows the profiles while their files change. Of the rest of the
// configuration it goes by what was read when it was made.
//
// It reads the files whenever it is asked, which takes some microseconds each:
// times of files say less than what is in them, and there is no moment between
// a change and the next look at which anything could be missed.
type Watch struct {
	config Config
	file   string // config.yaml

	looking singleflight.Group // one look at a time that finds something new
	known   []Profile          // as it was last

	mu   sync.Mutex
	seen look // what was used last
}

// look is what there is at one time.
type look struct {
	files []profileFile
	err   error // of listing them
}

func lookAt(dir string) (l look) {
	l.files, l.err = readFiles(dir)
	return l
}

func (l look) same(other look) bool {
	return errorText(l.err) == errorText(other.err) && same(l.files, other.files)
}

// Watch returns what follows the profiles beside the file that c was read from.
func (c Config) Watch(file string) *Watch {
	return &Watch{config: c, file: file, seen: c.read, known: c.Profiles}
}

const (
	settling = 50 * time.Millisecond // for which files must stay the same that somebody is changing
	settled  = 20                    // looks after which they are taken as they are
)

// Update calls use with the profiles as they are now, in the order of
// Config.Profiles, if they are not those of the time before. It returns when who
// asked first has used them. What is being written is waited for up to a second,
// so that half a file counts for no whole one: once for all who ask meanwhile. As
// long as the directory can't be listed, no profile can be used. If ctx ends, it
// returns, and they may change yet.
func (w *Watch) Update(ctx context.Context, use func([]Profile)) {
	now := lookAt(profilesDir(w.file))
	w.mu.Lock()
	same := now.same(w.seen)
	w.mu.Unlock()
	if same {
		return
	}
	select {
	case <-w.looking.DoChan("", func() (any, error) { w.take(now, use); return nil, nil }):
	case <-ctx.Done():
	}
}

// take uses what there is when it has settled.
func (w *Watch) take(now look, use func([]Profile)) {
	for range settled {
		time.Sleep(settling)
		before := now
		if now = lookAt(profilesDir(w.file)); now.same(before) {
			break
		}
	}
	if now.same(w.seen) {
		return
	}
	w.known = w.profiles(now)
	use(w.known)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = now
}

// profiles returns those that the look shows.
func (w *Watch) profiles(l look) (all []Profile) {
	if l.err == nil {
		return w.config.profiles(w.file, l.files)
	}
	for _, p := range w.known {
		all = append(all, brokenProfile(p.Name, l.err))
	}
	return all
}

func profilesDir(file string) string { return filepath.Join(filepath.Dir(file), "profiles") }

// profiles returns those of the files, as Config.Profiles has them.
func (c Config) profiles(file string, files []profileFile) []Profile {
	all := profilesOf(files)
	for i := range all {
		all[i].settle(c.Proxmox)
	}
	return order(all, c.DefaultProfile, file)
}
