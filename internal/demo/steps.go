package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agentlab-mcp/agentlab/internal/stage"
)

// secret stands in the environment of what the client starts.
const secret = "AGENTLAB_DEMO_SECRET=of-the-host"

// demo is the client and what it has made so far.
type demo struct {
	stage       *stage.Stage
	on          backend
	out         *transcript
	client      *stage.Client
	main, brief sandbox
}

type sandbox struct {
	ID      string    `json:"sandbox_id"`
	State   string    `json:"state"`
	Expires time.Time `json:"expires_at"`
	Home    string    `json:"home"`
	OS      string    `json:"os"`
}

func (d *demo) connect(ctx context.Context) (err error) {
	if d.client, err = d.stage.Connect(ctx, secret); err != nil {
		return err
	}
	init := d.client.InitializeResult()
	d.out.step("initialize", fmt.Sprintf("%s %s, protocol %s", init.ServerInfo.Name, init.ServerInfo.Version, init.ProtocolVersion))
	tools, err := d.client.ListTools(ctx, &mcp.ListToolsParams{})
	if err != nil {
		return err
	}
	var names []string
	for _, tool := range tools.Tools {
		names = append(names, tool.Name)
	}
	for _, want := range []string{
		"create_sandbox", "list_sandboxes", "extend_ttl", "destroy", "exec", "read_process",
		"control_process", "read_file", "write_file", "edit_file", "list_files",
	} {
		if !slices.Contains(names, want) {
			return fmt.Errorf("tool %s is missing in %v", want, names)
		}
	}
	half := len(names) / 2
	d.out.step("tools/list", strings.Join(names[:half], " ")+"\n"+strings.Join(names[half:], " "))
	return nil
}

func (d *demo) create(ctx context.Context) error {
	for _, c := range []struct {
		sb   *sandbox
		args stage.Args
	}{
		{&d.main, stage.Args{"name": "demo"}},
		{&d.brief, stage.Args{"profile": "brief"}},
	} {
		if _, err := d.client.Call(ctx, "create_sandbox", c.args, c.sb); err != nil {
			return err
		}
		if err := d.booted(ctx, c.sb); err != nil {
			return err
		}
		d.out.step("create_sandbox", fmt.Sprintf("%s, %s, ends in %v", c.sb.ID, c.sb.OS, time.Until(c.sb.Expires).Round(time.Second)))
	}
	text, err := d.client.Call(ctx, "extend_ttl", stage.Args{"sandbox_id": d.brief.ID, "ttl_seconds": 3}, &d.brief)
	if err != nil {
		return err
	}
	d.out.step("extend_ttl", text)
	if about := d.on.about(); about != "" {
		d.out.step("on the Proxmox", about)
	}
	return nil
}

// booted waits until a sandbox is ready: one that takes longer than a client may
// wait for an answer is told of before.
func (d *demo) booted(ctx context.Context, sb *sandbox) error {
	for {
		switch strings.ToLower(sb.State) {
		case "ready":
			return nil
		case "requested", "provisioning", "booting":
		default:
			return fmt.Errorf("%s is %s, want ready", sb.ID, sb.State)
		}
		var list struct{ Sandboxes []sandbox }
		if _, err := d.client.Call(ctx, "list_sandboxes", stage.Args{"sandbox_id": sb.ID, "wait_ready_seconds": 45}, &list); err != nil {
			return err
		}
		*sb = list.Sandboxes[0]
	}
}

// exit is what exec tells programs.
type exit struct {
	Code      int    `json:"exit_code"`
	Running   bool   `json:"running"`
	ProcessID string `json:"process_id"`
}

// exec runs a command in the main sandbox and returns what the model would see.
func (d *demo) exec(ctx context.Context, command string) (text string, ex exit, err error) {
	text, err = d.client.Call(ctx, "exec", stage.Args{"sandbox_id": d.main.ID, "command": command}, &ex)
	return text, ex, err
}

// The program needs nothing but a shell, so it runs whatever the host has.
const primes = `# the primes below $1, by the sieve of Eratosthenes
for ((i = 2; i < $1; i++)); do
	[[ ${composite[i]} ]] && continue
	echo $i
	for ((j = i * i; j < $1; j += i)); do composite[j]=1; done
done
`

func (d *demo) program(ctx context.Context) error {
	path := d.main.Home + "/primes.sh"
	if _, err := d.client.Call(ctx, "write_file", stage.Args{"sandbox_id": d.main.ID, "path": path, "content": primes}, nil); err != nil {
		return err
	}
	d.out.step("write_file", path+"\n"+primes)

	command := "bash primes.sh 10000 > primes.txt; wc -l < primes.txt; id -un"
	text, ex, err := d.exec(ctx, command)
	if err != nil {
		return err
	}
	if ex.Code != 0 || !strings.Contains(text, "\n1229\n") {
		return fmt.Errorf("there are 1229 primes below 10000, but %q says:\n%s", command, text)
	}
	d.out.step("exec", command+"\n"+text)

	text, err = d.client.Call(ctx, "read_file", stage.Args{"sandbox_id": d.main.ID, "path": d.main.Home + "/primes.txt", "offset": 1227, "limit": 3}, nil)
	if err != nil {
		return err
	}
	if !strings.Contains(text, "9973") {
		return fmt.Errorf("the last prime below 10000 is 9973, but primes.txt ends:\n%s", text)
	}
	d.out.step("read_file", "primes.txt from line 1227\n"+text)
	return nil
}

func (d *demo) background(ctx context.Context) error {
	const ticks = 4
	command := fmt.Sprintf("for i in {1..%d}; do echo tick $i; sleep %s; done", ticks, d.on.pause())
	var ex exit
	seen, err := d.client.Call(ctx, "exec", stage.Args{"sandbox_id": d.main.ID, "command": command, "wait_seconds": 0}, &ex)
	if err != nil {
		return err
	}
	if !ex.Running || ex.ProcessID == "" {
		return fmt.Errorf("a background process should be running: %+v", ex)
	}
	d.out.step("exec", command+"\n"+seen)
	for i := 1; i <= ticks; i++ {
		want := fmt.Sprintf("tick %d\n", i)
		if strings.Contains(seen+"\n", want) { // it was there when exec answered
			continue
		}
		var now exit
		text, err := d.client.Call(ctx, "read_process", stage.Args{
			"sandbox_id": d.main.ID, "process_id": ex.ProcessID, "until": strings.TrimSpace(want), "wait_seconds": 30,
		}, &now)
		if err != nil {
			return err
		}
		if seen += "\n" + text; !strings.Contains(seen+"\n", want) {
			return fmt.Errorf("read_process waited for %q and gave:\n%s", want, text)
		}
		if i == 1 && !now.Running {
			return errors.New("the first line was seen only after the process had ended")
		}
		d.out.step("read_process", text)
	}
	return nil
}

// ttl waits for the end of the sandbox that was made for three seconds.
func (d *demo) ttl(ctx context.Context) error {
	for {
		var list struct{ Sandboxes []sandbox }
		if _, err := d.client.Call(ctx, "list_sandboxes", nil, &list); err != nil {
			return err
		}
		if !slices.ContainsFunc(list.Sandboxes, func(sb sandbox) bool { return sb.ID == d.brief.ID }) {
			break
		}
		if late := time.Since(d.brief.Expires); late > 5*time.Second {
			return fmt.Errorf("%s is still there %v after its end", d.brief.ID, late)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	_, err := d.client.Call(ctx, "exec", stage.Args{"sandbox_id": d.brief.ID, "command": "true"}, nil)
	var refused stage.ToolError
	if !errors.As(err, &refused) {
		return errors.Join(errors.New("exec in a sandbox that has ended should be refused by the tool"), err)
	}
	d.out.step("exec", "refused: "+string(refused))
	return nil
}

func (d *demo) destroy(ctx context.Context) error {
	var gone struct {
		Destroyed bool
	}
	if _, err := d.client.Call(ctx, "destroy", stage.Args{"sandbox_id": d.main.ID}, &gone); err != nil {
		return err
	}
	if !gone.Destroyed {
		return fmt.Errorf("destroy of %s: %+v", d.main.ID, gone)
	}
	d.out.step("destroy", d.main.ID)
	text, err := d.client.Call(ctx, "list_sandboxes", nil, nil)
	if err != nil {
		return err
	}
	if strings.Contains(text, d.main.ID) {
		return fmt.Errorf("list_sandboxes still has it:\n%s", text)
	}
	d.out.step("list_sandboxes", text)
	return d.client.Close()
}
