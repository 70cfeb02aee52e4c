package span_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/agentlab-mcp/agentlab/internal/span"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// fakeConn answers each Run with its error.
type fakeConn struct {
	guest.Conn
	err error
}

func (c fakeConn) Run(context.Context, guest.Cmd, guest.Streams) (guest.Exit, error) {
	return guest.Exit{}, c.err
}

// What is not traced costs nothing, and is passed on as it is.
func TestNothingIsTraced(t *testing.T) {
	ctx := t.Context()
	var nobody *span.Tracer
	if n := testing.AllocsPerRun(100, func() {
		ctx, end := nobody.Request(nobody.From(ctx, nil), "tool exec")
		ctx, stop := span.Start(ctx, "step boot", "agentlab.backend", "local")
		_ = span.Join(context.Background(), ctx)
		stop("ok")
		end("ok")
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	c := fakeConn{}
	if got := span.Conn(ctx, c); got != guest.Conn(c) {
		t.Errorf("got %T", got)
	}
}

// A span is below that of the request also when it is for a context of ours, and
// when the request has ended.
func TestJoin(t *testing.T) {
	spans := tracetest.NewInMemoryExporter()
	tracer := span.New(sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans)))
	ctx, end := tracer.Request(t.Context(), "tool create_sandbox")
	end("ok")
	ours := span.Join(context.Background(), ctx)
	for _, c := range []struct {
		err  error
		want string
	}{
		{nil, "ok"},
		{errors.New("canary"), "failed"},
		{guest.ErrUnreachable, "unreachable"},
	} {
		spans.Reset()
		step, stop := span.Start(ours, "step boot", "agentlab.backend", "local")
		if _, err := span.Conn(step, fakeConn{err: c.err}).Run(step, guest.Cmd{Args: []string{"canary"}}, guest.Streams{}); !errors.Is(err, c.err) {
			t.Errorf("error %v, want %v", err, c.err)
		}
		stop("ok")
		all := spans.GetSpans()
		if len(all) != 2 || all[0].Name != "guest run" || all[0].Parent.SpanID() != all[1].SpanContext.SpanID() || all[1].Parent.TraceID() != all[0].SpanContext.TraceID() {
			t.Fatalf("spans %+v", all)
		}
		told := ""
		for _, a := range append(all[1].Attributes, all[0].Attributes...) {
			told += string(a.Key) + "=" + a.Value.AsString() + " "
		}
		if diff := cmp.Diff("agentlab.backend=local agentlab.outcome=ok agentlab.outcome="+c.want+" ", told); diff != "" {
			t.Errorf("attributes (-want +got):\n%s", diff)
		}
		if strings.Contains(all[0].Status.Description+all[1].Status.Description, "canary") {
			t.Error("the error's text is told")
		}
	}
}

// A request is in the client's trace, to which it adds no text of its own.
func TestFromClient(t *testing.T) {
	spans := tracetest.NewInMemoryExporter()
	tracer := span.New(sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans)))
	said := map[string]string{
		"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		"tracestate":  "canary=1",
	}
	_, end := tracer.Request(tracer.From(t.Context(), func(key string) string { return said[key] }), "tool exec")
	end("ok")
	all := spans.GetSpans()
	if len(all) != 1 || all[0].SpanContext.TraceID().String() != "0af7651916cd43dd8448eb211c80319c" || all[0].Parent.SpanID().String() != "b7ad6b7169203331" {
		t.Fatalf("spans %+v", all)
	}
	if state := all[0].SpanContext.TraceState().String() + all[0].Parent.TraceState().String(); state != "" {
		t.Errorf("trace state %q", state)
	}
}
