// Package span says what a request is made of, for who wants to see where its
// time goes: a tree of what was done, with names, times and outcomes, in the
// trace that the client began.
//
// There is no tracer to hand down. What is done for a request that is traced is
// done under a context that says so, and a span begins below the one that is
// there; under any other context nothing is done, which costs a look at the
// context. So only requests are traced, and nothing that we do by ourselves.
//
// A name or an attribute is never what a client wrote, a content or an error's
// text: whoever collects traces may see more of them than of us.
package span

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// scope names us as the source of spans.
const scope = "github.com/agentlab-mcp/agentlab"

// ok is the outcome of what went well.
const ok = "ok"

// Tracer begins the spans of requests. A nil one begins none.
type Tracer struct{ provider trace.TracerProvider }

// New returns a Tracer whose spans, and all those below them, go to provider.
func New(provider trace.TracerProvider) *Tracer { return &Tracer{provider} }

// From returns ctx with what a client says of its own trace: W3C's traceparent, which
// get returns by that name. What is none says nothing. Its tracestate is not passed
// on: it would be a client's own text in the operator's traces.
func (t *Tracer) From(ctx context.Context, get func(key string) string) context.Context {
	if t == nil {
		return ctx
	}
	return propagation.TraceContext{}.Extract(ctx, carrier(get))
}

// Request begins the span of a request, in the trace that the client has said or a
// new one. Whether the client records its trace decides whether we do. The caller
// calls end with the outcome.
func (t *Tracer) Request(ctx context.Context, name string) (_ context.Context, end func(outcome string)) {
	if t == nil {
		return ctx, func(string) {}
	}
	ctx, s := t.provider.Tracer(scope).Start(ctx, name, trace.WithSpanKind(trace.SpanKindServer))
	return ctx, ender(s)
}

// carrier is what a client has sent, read by its keys.
type carrier func(key string) string

// Get implements [propagation.TextMapCarrier].
func (c carrier) Get(key string) string {
	if key != "traceparent" {
		return ""
	}
	return c(key)
}

// Set implements [propagation.TextMapCarrier]. Nothing is sent.
func (carrier) Set(string, string) {}

// Keys implements [propagation.TextMapCarrier]. Nobody asks.
func (carrier) Keys() []string { return nil }

// Start begins a span below that of ctx, if there is one. Pairs are attributes,
// each a key and a value. The caller calls end with the outcome.
func Start(ctx context.Context, name string, pairs ...string) (_ context.Context, end func(outcome string)) {
	parent := trace.SpanFromContext(ctx)
	if !parent.SpanContext().IsSampled() {
		return ctx, func(string) {}
	}
	ctx, s := parent.TracerProvider().Tracer(scope).Start(ctx, name, trace.WithAttributes(attributes(pairs)...))
	return ctx, ender(s)
}

// Join returns ctx in the trace of asker, for what goes on when asker has ended.
func Join(ctx, asker context.Context) context.Context {
	if s := trace.SpanFromContext(asker); s.SpanContext().IsSampled() {
		return trace.ContextWithSpan(ctx, s)
	}
	return ctx
}

func ender(s trace.Span) func(outcome string) {
	return func(outcome string) {
		s.SetAttributes(attribute.String("agentlab.outcome", outcome))
		if outcome != ok {
			s.SetStatus(codes.Error, outcome)
		}
		s.End()
	}
}

func attributes(pairs []string) []attribute.KeyValue {
	var all []attribute.KeyValue
	for i := 0; i+1 < len(pairs); i += 2 {
		all = append(all, attribute.String(pairs[i], pairs[i+1]))
	}
	return all
}
