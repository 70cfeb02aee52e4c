// Package tools presents sandboxes as the tools of an MCP server: typed input,
// one call, typed output. It knows no MCP library: what it offers is a table of
// [Tool], which mcpserver registers with whatever library speaks the protocol.
//
// The texts are written for a language model. An error says what happened, how
// things stand and what to do next; what is long is cut in the middle and says
// where the rest is; what a program wants to know besides stands in the
// result's metadata, which models are not shown.
package tools

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"time"

	"github.com/agentlab-mcp/agentlab/sessions"
)

// MetaKey is the key in a result's _meta under which Result.Meta is sent.
const MetaKey = "agentlab.dev/result"

// Tool is one tool: what clients are shown of it, and what it does.
type Tool struct {
	Name        string
	Title       string // for people
	Description string // for models
	Input       Schema
	Output      *Schema // of Result.Structured; nil if there is none
	Annotations Annotations
	Meta        map[string]any
	Doing       string        // what a call does while it lasts, for progress: "running the command"
	Urgent      bool          // must get through when many other calls are running
	Most        time.Duration // that a call may take; 0 is two minutes

	// Scope is what a caller must have, or the tool is neither shown to it nor
	// called for it. Without one it is for nobody.
	Scope sessions.Scope
	// Offered says whether the tool is there at all for whoever asks; nil is
	// that it always is.
	Offered func(ctx context.Context) bool

	// Record returns the sandbox that the arguments of a call name, which may be
	// made up, and the arguments as they may be kept: without contents and with
	// what looks like a secret masked. Nil keeps nothing.
	Record func(args json.RawMessage) (sandbox, arguments string)

	// Unrecorded is that a call is no event: it looks at events, and to follow
	// them would never end.
	Unrecorded bool

	// Call does it. It never fails otherwise than by Result.IsError, and
	// panics are the caller's to catch.
	Call func(ctx context.Context, args json.RawMessage) Result
}

// Annotations are hints to clients about a tool.
type Annotations struct {
	ReadOnly    bool // changes nothing
	Destructive bool // may lose something
	Idempotent  bool // a second call with the same arguments has no further effect
	OpenWorld   bool // reaches beyond what this server keeps
}

// Result is the answer to a call.
type Result struct {
	Content    []Content
	Structured any // matches Tool.Output
	Meta       any // sent in _meta under MetaKey
	IsError    bool

	Sandbox string // id of the sandbox concerned, for the log; may be what the caller made up
	Outcome string // for the log: "ok", or the sessions.Kind of the error
}

// Content is a piece of text or, if Data is not nil, of other data. Of a tool
// that is an image.
type Content struct {
	Text string
	Data []byte
	MIME string // of Data, and of the text of a resource
}

type reportKey struct{}

// WithReport returns a context in which [Report] tells report.
func WithReport(ctx context.Context, report func(step string)) context.Context {
	return context.WithValue(ctx, reportKey{}, report)
}

// Report says in a few words how far a call is that has ctx, for whoever waits
// for it.
func Report(ctx context.Context, step string) {
	if tell, ok := ctx.Value(reportKey{}).(func(string)); ok {
		tell(step)
	}
}

// Source gives the Manager. It fails while the configuration or a backend is
// broken; its error then says what is wrong and how to mend it, and every call
// passes that on, so that a client sees it where it looks: in an answer.
type Source func(ctx context.Context) (*sessions.Manager, error)

// service is what all tools share.
type service struct {
	open     Source
	tokens   TokenSource // of the operator's tools
	profiles []sessions.Profile
	log      *slog.Logger
}

// All returns the tools. The profiles are those named in the definitions, which
// can be listed while open still fails, none if they are not known yet; the
// calls use those of the Manager.
// Details of internal errors go to log.
func All(open Source, profiles []sessions.Profile, log *slog.Logger) []Tool {
	s := &service{open: open, profiles: profiles, log: log}
	return []Tool{
		s.createSandbox(), s.listSandboxes(), s.extendTTL(), s.stopSandbox(), s.startSandbox(), s.resizeSandbox(), s.destroy(),
		s.exec(), s.readProcess(), s.controlProcess(),
		s.readFile(), s.writeFile(), s.editFile(), s.listFiles(),
		s.uploadFile(), s.downloadFile(), s.uploadURL(), s.downloadURL(),
	}
}

// target is the argument that every tool but create_sandbox takes.
type target struct {
	SandboxID string `arg:"sandbox_id,required" bytes:"100"`
}

func (t target) sandboxID() string { return t.SandboxID }

// body is what a tool does with decoded arguments.
type body[In any] func(ctx context.Context, m *sessions.Manager, in In) (Result, error)

// define completes t with the schema of In and a Call that decodes, runs do,
// and words what went wrong.
func define[In any](s *service, t Tool, do body[In]) Tool {
	shown := paramsOf[In](adjust(s.profiles))
	t.Input, t.Record = shown.schema(), shown.record
	now := &current[In]{shown: shown}
	t.Call = func(ctx context.Context, args json.RawMessage) Result {
		var in In
		m, err := s.open(ctx)
		if err != nil {
			return s.broken(t.Name, err)
		}
		res, err := Result{}, now.params(ctx, m).decode(args, &in)
		if err == nil {
			res, err = do(ctx, m, in)
		}
		if err != nil {
			res = s.present(ctx, t.Name, err)
		}
		if id, ok := any(in).(interface{ sandboxID() string }); ok {
			res.Sandbox = id.sandboxID()
		}
		if res.Outcome == "" {
			res.Outcome = "ok"
		}
		return res
	}
	return t
}

// current is what holds for the arguments In: what is shown of them is from when
// the definitions were made, and the profiles may have changed since.
type current[In any] struct {
	shown params

	mu   sync.Mutex
	of   []sessions.Profile
	made params
}

func (c *current[In]) params(ctx context.Context, m *sessions.Manager) params {
	if !c.shown.ofProfiles() {
		return c.shown
	}
	offered := m.Offered(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.made == nil || !sameList(c.of, offered) {
		c.of, c.made = offered, paramsOf[In](adjust(offered))
	}
	return c.made
}

// sameList says that it is one list, which does not change.
func sameList(a, b []sessions.Profile) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// structured is the result of a tool with an output schema.
func structured(out any, text string) Result {
	return Result{Structured: out, Content: []Content{{Text: text}}}
}

// plain is the result of a tool that answers with text.
func plain(text string, meta any) Result {
	return Result{Meta: meta, Content: []Content{{Text: text}}}
}
