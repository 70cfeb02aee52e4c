package config_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/config"
)

// followed is a directory of profiles that a Watch follows, in fake time.
type followed struct {
	t     *testing.T
	file  string
	watch *config.Watch
}

func follow(t *testing.T, files map[string]string, f func(*followed)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &followed{t: t, file: write(t, files)}
		c, err := config.Load(w.file)
		if err != nil {
			t.Fatal(err)
		}
		w.watch = c.Watch(w.file)
		if _, changed := w.update(); changed {
			t.Error("the first look saw what was loaded")
		}
		f(w)
	})
}

// update returns the profiles if they have changed, by name.
func (w *followed) update() (now map[string]config.Profile, changed bool) {
	w.t.Helper()
	w.watch.Update(w.t.Context(), func(list []config.Profile) {
		changed, now = true, map[string]config.Profile{}
		for _, p := range list {
			now[p.Name] = p
		}
	})
	return now, changed
}

// path is that of a file beside config.yaml.
func (w *followed) path(name string) string { return filepath.Join(filepath.Dir(w.file), name) }

func (w *followed) do(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *followed) put(name, text string) {
	w.t.Helper()
	w.do(os.MkdirAll(filepath.Dir(w.path(name)), 0o700))
	w.do(os.WriteFile(w.path(name), []byte(text), 0o600))
}

// Whatever way the files change, the next look sees it, and the one after that
// sees nothing new.
func TestProfilesAreFollowed(t *testing.T) {
	start := map[string]string{"profiles/a.yaml": "cores: 1\n", "profiles/b.yaml": "extends: a\nmemory_mb: 64\n", "other/a.yaml": "cores: 5\n"}
	for name, tt := range map[string]struct {
		change func(w *followed)
		cores  map[string]int // 0 is that there is no such profile
	}{
		"written": {func(w *followed) { w.put("profiles/a.yaml", "cores: 2\n") }, map[string]int{"a": 2, "b": 2}},
		"same-length-and-time": {func(w *followed) {
			info, err := os.Stat(w.path("profiles/a.yaml"))
			w.do(err)
			w.put("profiles/a.yaml", "cores: 3\n")
			w.do(os.Chtimes(w.path("profiles/a.yaml"), info.ModTime(), info.ModTime()))
		}, map[string]int{"a": 3}},
		"renamed-over": {func(w *followed) {
			w.put("profiles/.a.swp", "cores: 4\n")
			w.do(os.Rename(w.path("profiles/.a.swp"), w.path("profiles/a.yaml")))
		}, map[string]int{"a": 4, "b": 4}},
		"added":   {func(w *followed) { w.put("profiles/c.yaml", "cores: 7\n") }, map[string]int{"a": 1, "c": 7}},
		"removed": {func(w *followed) { w.do(os.Remove(w.path("profiles/b.yaml"))) }, map[string]int{"a": 1, "b": 0}},
		"directory-replaced": {func(w *followed) {
			w.do(os.Rename(w.path("profiles"), w.path("old")))
			w.do(os.Rename(w.path("other"), w.path("profiles")))
		}, map[string]int{"a": 5, "b": 0}},
		"directory-gone": {func(w *followed) { w.do(os.RemoveAll(w.path("profiles"))) }, map[string]int{"a": 0, "default": 2}},
		"built-in":       {func(w *followed) { w.put("profiles/default.yaml", "cores: 6\n") }, map[string]int{"default": 6, "yolo-ephemeral": 6}},
	} {
		t.Run(name, func(t *testing.T) {
			follow(t, start, func(w *followed) {
				tt.change(w)
				now, changed := w.update()
				if !changed {
					t.Fatal("nothing was seen")
				}
				for profile, cores := range tt.cores {
					if p := now[profile]; p.Cores != cores || p.Problem != "" {
						t.Errorf("%s has %d cores (problem %q), want %d", profile, p.Cores, p.Problem, cores)
					}
				}
				if _, changed := w.update(); changed {
					t.Error("the same was seen twice")
				}
			})
		})
	}
	t.Run("directory-comes", func(t *testing.T) {
		follow(t, nil, func(w *followed) {
			w.put("profiles/a.yaml", "cores: 8\n")
			if now, _ := w.update(); now["a"].Cores != 8 {
				t.Errorf("a is %+v", now["a"])
			}
		})
	})
}

// What is broken can't be used, and nothing else: neither what it was before, nor
// less of the others. What stands on it is broken, too.
func TestABrokenProfileIsNoOther(t *testing.T) {
	follow(t, map[string]string{"profiles/a.yaml": "cores: 1\n", "profiles/b.yaml": "extends: a\n", "profiles/c.yaml": "cores: 3\n"}, func(w *followed) {
		w.put("profiles/a.yaml", "cores: 2\ncoresx: 3\n")
		now, _ := w.update()
		for _, name := range []string{"a", "b"} {
			if p := now[name]; p.Cores != 0 || !strings.Contains(p.Problem, `profiles/a.yaml:2: unknown key "coresx"`) {
				t.Errorf("%s is %+v", name, p)
			}
		}
		if p := now["c"]; p.Cores != 3 || p.Problem != "" {
			t.Errorf("c is %+v", p)
		}
		w.put("profiles/a.yaml", "cores: 2\n")
		if now, _ = w.update(); now["a"].Cores != 2 || now["b"].Cores != 2 || now["a"].Problem != "" {
			t.Errorf("mended: %+v", now["a"])
		}
	})
	follow(t, nil, func(w *followed) {
		w.put("profiles/default.yaml", "cores: x\n")
		w.put("profiles/mine.yaml", "extends: yolo-ephemeral\n")
		now, _ := w.update()
		for _, name := range []string{"default", "yolo-ephemeral", "interactive-dev", "mine"} {
			if p := now[name]; !strings.Contains(p.Problem, "default.yaml:1: cores: got") {
				t.Errorf("%s is %+v", name, p)
			}
		}
	})
}

// Without its file the default is broken, and no other profile takes its place.
func TestTheDefaultIsGone(t *testing.T) {
	follow(t, map[string]string{"config.yaml": "default_profile: big\n", "profiles/big.yaml": "cores: 8\n"}, func(w *followed) {
		w.do(os.Remove(w.path("profiles/big.yaml")))
		w.watch.Update(w.t.Context(), func(list []config.Profile) {
			if p := list[0]; p.Name != "big" || !strings.Contains(p.Problem, `default_profile: there is no profile "big"`) {
				t.Errorf("first is %+v", p)
			}
			if p := list[1]; p.Name == "big" || p.Problem != "" {
				t.Errorf("second is %+v", p)
			}
		})
	})
}

// As long as nobody can say what the profiles are, none can be used.
func TestADirectoryThatCannotBeListed(t *testing.T) {
	follow(t, map[string]string{"profiles/a.yaml": "cores: 1\n"}, func(w *followed) {
		w.do(os.Rename(w.path("profiles"), w.path("kept")))
		w.put("profiles", "no directory")
		now, _ := w.update()
		for _, name := range []string{"a", "default"} {
			if p := now[name]; !strings.Contains(p.Problem, "list profiles: ") {
				t.Errorf("%s is %+v", name, p)
			}
		}
		w.do(os.Remove(w.path("profiles")))
		w.do(os.Rename(w.path("kept"), w.path("profiles")))
		if now, _ = w.update(); now["a"].Cores != 1 || now["a"].Problem != "" {
			t.Errorf("a is %+v", now["a"])
		}
	})
}

// Half a file is a valid one, often, and must not count.
func TestWhatIsBeingWrittenIsWaitedFor(t *testing.T) {
	follow(t, map[string]string{"profiles/a.yaml": "cores: 1\nnetwork: none\n"}, func(w *followed) {
		w.put("profiles/a.yaml", "")
		go func() {
			for _, text := range []string{"cores: 2\n", "cores: 2\nmemory_mb: 64\n", "cores: 2\nmemory_mb: 64\nmax_procs: 99\n"} {
				time.Sleep(40 * time.Millisecond)
				w.put("profiles/a.yaml", text)
			}
		}()
		if now, _ := w.update(); now["a"].MaxProcs != 99 || now["a"].Cores != 2 {
			t.Errorf("a is %+v", now["a"])
		}
		// One that never rests is taken as it is: whoever asks must be answered.
		stop, start := w.restless(), time.Now()
		if _, changed := w.update(); !changed || time.Since(start) > 2*time.Second {
			t.Errorf("changed %v, after %v", changed, time.Since(start))
		}
		<-stop
	})
}

// restless has a.yaml written anew all the time, for three seconds.
func (w *followed) restless() (stop <-chan struct{}) {
	done, end := make(chan struct{}), time.Now().Add(3*time.Second)
	w.put("profiles/a.yaml", "# 0\n")
	go func() {
		defer close(done)
		for i := 1; time.Now().Before(end); i++ {
			time.Sleep(7 * time.Millisecond)
			w.put("profiles/new", fmt.Sprintf("# %d\n", i))
			w.do(os.Rename(w.path("profiles/new"), w.path("profiles/a.yaml")))
		}
	}()
	return done
}

// However many ask while it is being written, it is waited for once, and by nobody
// who has given up.
func TestWhoAskTogetherWaitOnce(t *testing.T) {
	follow(t, map[string]string{"profiles/a.yaml": "cores: 1\n"}, func(w *followed) {
		start, stop := time.Now(), w.restless()
		var used atomic.Int32
		ask := func(ctx context.Context) { w.watch.Update(ctx, func([]config.Profile) { used.Add(1) }) }
		var all sync.WaitGroup
		for range 5 {
			all.Go(func() { ask(w.t.Context()) })
		}
		short, cancel := context.WithTimeout(w.t.Context(), 10*time.Millisecond)
		defer cancel()
		if ask(short); time.Since(start) != 10*time.Millisecond {
			w.t.Errorf("who has given up has waited %v", time.Since(start))
		}
		all.Wait()
		if took := time.Since(start); took != time.Second || used.Load() != 1 {
			w.t.Errorf("used %d times, after %v", used.Load(), took)
		}
		<-stop
	})
}

// The first look after the start waits for it as well.
func TestWhatIsBeingWrittenAtTheStartIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &followed{t: t, file: write(t, map[string]string{"profiles/a.yaml": "cores: 1\n"})}
		c, err := config.Load(w.file)
		w.do(err)
		w.watch = c.Watch(w.file)
		w.put("profiles/a.yaml", "cores: 2\n")
		go func() {
			time.Sleep(40 * time.Millisecond)
			w.put("profiles/a.yaml", "cores: 2\nmax_procs: 99\n")
		}()
		if now, _ := w.update(); now["a"].MaxProcs != 99 {
			t.Errorf("a is %+v", now["a"])
		}
	})
}

// A shell empties the file that a command is to write, and a slow one leaves it so.
func TestAnEmptyFileIsNoProfile(t *testing.T) {
	follow(t, map[string]string{"profiles/a.yaml": "cores: 1\n", "profiles/b.yaml": "extends: a\n"}, func(w *followed) {
		for _, text := range []string{"", " \n\t\n"} {
			w.put("profiles/a.yaml", text)
			now, _ := w.update()
			for _, name := range []string{"a", "b"} {
				if p := now[name]; !strings.Contains(p.Problem, "profiles/a.yaml: it is empty; write at least a comment") {
					t.Errorf("%s of %q is %+v", name, text, p)
				}
			}
		}
		w.put("profiles/a.yaml", "# all defaults\n")
		if now, _ := w.update(); now["a"].Problem != "" || now["a"].Cores != 2 {
			t.Errorf("a is %+v", now["a"])
		}
	})
}
