package agentconn

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The mark at the end of a stream may be cut off right after a pull has looked
// at the size, as happens in slow guests: it is no part of what was written.
func TestPullMeetsMark(t *testing.T) {
	spool := t.TempDir()
	wc, err := exec.LookPath("wc")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"r_1/out.0": "said\n\nr_1\n", "r_1/err.0": "", "r_1/ended": "", "r_1/supervisor": "1\n", "r_1/start": "ok\n\n",
		"tmp.test/sweeper": fmt.Sprintln(os.Getpid()), // there is one
		// wc is the pump, too, which is done between the two.
		"bin/wc": "#!/bin/sh\n" + wc + ` "$@"; echo said >out.0; echo 5 >out.end; echo 0 >err.end; echo code=0 >end` + "\n",
	} {
		path := filepath.Join(spool, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(spool, "boot"), append(boot, "\n\n"...), 0o600); err != nil { // it is prepared
		t.Fatal(err)
	}
	pull := strings.ReplaceAll(script("pull"), "/var/lib/agentlab", spool)
	var said string
	for range 2 {
		cmd := exec.Command("/bin/sh", "-c", pull, "agentlab-pull", "test", "0", "", "r_1", "0", "0", "0", "0", "0", "piece")
		cmd.Env = append(os.Environ(), "PATH="+filepath.Join(spool, "bin")+":"+os.Getenv("PATH"))
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		rec, rest, err := answer(out)
		if err != nil {
			t.Fatal(err)
		}
		if int64(len(rest)) != rec.num("outn")+rec.num("errn") {
			t.Errorf("it promises %v and prints %q", rec, rest)
		}
		said += string(rest)
	}
	if said != "said\n" {
		t.Errorf("the command said %q", said)
	}
}
