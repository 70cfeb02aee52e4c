package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// cmdLeaks: "leaks FILE..." looks for secrets wherever they may have come: those in
// the files, that of the Proxmox, the installation's key, and whatever is called a
// canary.
func cmdLeaks(ts *testscript.TestScript, _ bool, args []string) {
	secrets := map[string]string{"a canary": "canary"}
	for _, name := range args {
		secrets["the content of "+name] = strings.TrimSpace(ts.ReadFile(name))
	}
	_, uuid, _ := strings.Cut(simOf(ts).Token(), "=")
	secrets["the token of Proxmox"] = uuid
	key, err := os.ReadFile(ts.MkAbs("state/agentlab/instance.key"))
	ts.Check(err)
	secrets["the key"], secrets["the key in hex"], secrets["the key in base64"] = string(key), hex.EncodeToString(key), base64.RawStdEncoding.EncodeToString(key)
	places := told(ts)
	for what, secret := range secrets {
		if len(secret) < len("canary") {
			ts.Fatalf("%s is %q", what, secret)
		}
		for place, text := range places {
			if i := bytes.Index(text, []byte(secret)); i >= 0 {
				ts.Fatalf("%s is in %s: %q", what, place, text[max(0, i-200):min(len(text), i+100)])
			}
		}
	}
}

// told returns what there is for others to see of an installation.
func told(ts *testscript.TestScript) map[string][]byte {
	places := map[string][]byte{}
	ts.Check(filepath.WalkDir(ts.MkAbs("state/agentlab"), func(path string, e fs.DirEntry, err error) error {
		if os.IsNotExist(err) || err == nil && (e.Name() == "instance.key" || !e.Type().IsRegular()) {
			return nil
		}
		if e.IsDir() && e.Name() == "machines" { // what is inside of a sandbox is its owner's
			return fs.SkipDir
		}
		if err == nil {
			places[path], err = os.ReadFile(path)
		}
		return err
	}))
	for _, p := range processes(ts.Getenv("WORK")) {
		places[fmt.Sprint("the arguments of process ", p.pid)] = []byte(p.args)
	}
	log := places[ts.MkAbs("state/agentlab/agentlab.log")]
	if all := regexp.MustCompile(`metrics=(\S+)`).FindAllSubmatch(log, -1); len(all) > 0 {
		if res, err := http.Get(string(all[len(all)-1][1])); err == nil { // else the daemon has ended
			places["the metrics"], err = io.ReadAll(res.Body)
			ts.Check(err)
			ts.Check(res.Body.Close())
		}
	}
	c := ts.Value(collectorKey{}).(*collector)
	c.mu.Lock()
	defer c.mu.Unlock()
	places["the traces"] = fmt.Append(nil, c.spans, c.about)
	return places
}
