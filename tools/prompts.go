package tools

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/url"
	"regexp"
	"strings"

	"github.com/agentlab-mcp/agentlab/sessions"
)

// Prompt is a text that a person sends to the model by its name, as a command
// of the client's.
type Prompt struct {
	Name        string
	Title       string // for people
	Description string
	Arguments   []Property // all of them strings
	Scope       sessions.Scope

	// Get returns the text as the one Content of the result. Like a tool's Call
	// it never fails otherwise than by Result.IsError.
	Get func(ctx context.Context, args map[string]string) Result
}

// AllPrompts returns the prompts. They need no Manager: what they ask for, the
// model does with the tools.
func AllPrompts(log *slog.Logger) []Prompt {
	s := &service{log: log}
	return []Prompt{
		prompt(s, Prompt{
			Name: "run_in_sandbox", Title: "Run in a sandbox",
			Description: "Do a task in a new sandbox instead of on this machine.",
		}, runInSandbox),
		prompt(s, Prompt{
			Name: "reproduce_bug", Title: "Reproduce a bug",
			Description: "Get a repository into a new sandbox and reproduce an issue there.",
		}, reproduceBug),
		prompt(s, Prompt{
			Name: "clean_up_sandboxes", Title: "Clean up sandboxes",
			Description: "Destroy the sandboxes that are no longer needed.",
		}, cleanUp),
	}
}

// prompt completes p with its arguments and a Get that decodes them and words
// what is wrong with them.
func prompt[In any](s *service, p Prompt, write func(in In) (string, error)) Prompt {
	ps := paramsOf[In](func(*Property) {})
	p.Arguments, p.Scope = ps.schema().Properties, sessions.ScopeRead
	p.Get = func(ctx context.Context, args map[string]string) Result {
		raw, err := json.Marshal(args)
		var in In
		var text string
		if err == nil {
			err = ps.decode(raw, &in)
		}
		if err == nil {
			text, err = write(in)
		}
		if err != nil {
			return s.present(ctx, p.Name, err)
		}
		return Result{Content: []Content{{Text: text}}, Outcome: "ok"}
	}
	return p
}

type runIn struct {
	Task    string `arg:"task,required" bytes:"100000" doc:"What is to be done"`
	Profile string `arg:"profile" bytes:"100" doc:"Of the sandbox; default the first"`
}

func runInSandbox(in runIn) (string, error) {
	if strings.TrimSpace(in.Task) == "" {
		return "", invalid("task: is empty; say what is to be done")
	}
	return fmt.Sprintf(`Do this in an AgentLab sandbox and not on this machine:

<task>
%s
</task>

1. %s
2. Work in it with exec, read_file, write_file and edit_file. What takes longer than a minute goes on in the background: follow it with read_process.
3. Check the result in the sandbox before you call it done.
4. Tell me what you did and what came out, with the output that shows it. Give me what I am to keep, or its path, before anything is lost.
5. Then destroy the sandbox, unless I am to go on working in it: then tell me its sandbox_id and when it ends.`, in.Task, create(in.Profile)), nil
}

type reproduceIn struct {
	Repo    string `arg:"repo_url,required" bytes:"2000" doc:"As git clone takes it"`
	Issue   string `arg:"issue,required" bytes:"100000" doc:"URL, number or text of the issue"`
	Profile string `arg:"profile" bytes:"100" doc:"Of the sandbox; cloning needs one with network"`
}

// scpURL is how git also writes an address over SSH: user@host:path.
var scpURL = regexp.MustCompile(`^[A-Za-z0-9._-]+@[A-Za-z0-9.-]+:[^\s:-][^\s]*$`)

func reproduceBug(in reproduceIn) (string, error) {
	if strings.TrimSpace(in.Issue) == "" {
		return "", invalid("issue: is empty; give its URL, its number or what it says")
	}
	u, err := url.Parse(in.Repo)
	known := err == nil && u.Host != "" && strings.Contains(" https http ssh git ", " "+u.Scheme+" ")
	if !known && !scpURL.MatchString(in.Repo) || strings.ContainsAny(in.Repo, " \t\r\n") {
		return "", invalid("repo_url: %q is not an address that git clones, as https://host/owner/name or git@host:owner/name", brief(in.Repo))
	}
	return fmt.Sprintf(`Reproduce a bug in an AgentLab sandbox and not on this machine.

Repository: %s
<issue>
%s
</issue>

1. %s
2. Get the repository into it: git clone if the sandbox has network, else copy what is needed from here. Note the commit.
3. Build it and run its tests as they are, so that you know what worked before.
4. Write the smallest test or script that shows the bug, and run it. If it does not show, say what you tried and what is missing; do not guess.
5. Tell me: the commit, the steps, the output that shows the bug, and where in the code it comes from as far as you can tell. Do not mend it unless I ask.
6. Keep the sandbox for the mending, and tell me its sandbox_id and when it ends.`, in.Repo, in.Issue, create(in.Profile)), nil
}

// create says how to make the sandbox.
func create(profile string) string {
	if profile == "" {
		return "Create a sandbox with create_sandbox. Its network is what the profile says: choose one that fits."
	}
	return fmt.Sprintf("Create a sandbox with create_sandbox, profile %q.", profile)
}

func cleanUp(struct{}) (string, error) {
	return `Clean up my AgentLab sandboxes.

1. List them with list_sandboxes, and look into each that may still be of use: its processes, and what is in its home directory.
2. Show me one line for each: sandbox_id, name, since when, until when, what seems to be in it, and whether you would destroy it.
3. Ask me which to destroy. Those in which something runs or that hold results which are nowhere else stay, unless I say so.
4. Destroy those with destroy, and tell me what is left.`, nil
}
