//go:build e2e

package mcpserver

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"
)

// The smallest PNG and WAV.
const (
	png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
	wav = "UklGRiQAAABXQVZFZm10IBAAAAABAAEARKwAAIhYAQACABAAZGF0YQAAAAA="
)

// fixture is the server that the suite wants to test: what its tools, resources
// and prompts are called and answer is all in the texts of its scenarios.
type fixture struct {
	*server.MCPServer
	key []byte // of requestState, which clients may tamper with
}

// newFixture registers it.
func newFixture() *server.MCPServer {
	f := fixture{
		MCPServer: server.NewMCPServer("conformance", "1",
			server.WithToolCapabilities(true), server.WithResourceCapabilities(true, true), server.WithPromptCapabilities(true),
			server.WithCompletions(), server.WithLogging(), server.WithElicitation()),
		key: []byte(rand.Text()),
	}
	f.EnableSampling()
	f.content()
	f.notifying()
	f.asking()
	f.askingModern()
	f.schemas()
	f.resources()
	f.prompts()
	return f.MCPServer
}

func (f fixture) tool(name string, do func(ctx context.Context, req mcp.CallToolRequest) (*mcp.CallToolResult, error), opts ...mcp.ToolOption) {
	f.AddTool(mcp.NewTool(name, append(opts, mcp.WithDescription("what the suite wants of "+name))...), do)
}

// content are the tools that only answer.
func (f fixture) content() {
	embedded := func(uri, kind, text string) mcp.Content {
		return mcp.NewEmbeddedResource(mcp.TextResourceContents{URI: uri, MIMEType: kind, Text: text})
	}
	for name, content := range map[string][]mcp.Content{
		"test_simple_text":       {mcp.NewTextContent("This is a simple text response for testing.")},
		"test_image_content":     {mcp.NewImageContent(png, "image/png")},
		"test_audio_content":     {mcp.NewAudioContent(wav, "audio/wav")},
		"test_embedded_resource": {embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")},
		"test_multiple_content_types": {
			mcp.NewTextContent("Multiple content types test:"), mcp.NewImageContent(png, "image/png"),
			embedded("test://mixed-content-resource", "application/json", `{"test":"data","value":123}`),
		},
	} {
		f.tool(name, func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			return &mcp.CallToolResult{Content: content}, nil
		})
	}
	f.tool("test_error_handling", func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		return mcp.NewToolResultError("This tool intentionally returns an error for testing"), nil
	})
	f.tool("test_missing_capability", func(ctx context.Context, _ mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		if info := server.RequestProtocolInfoFromContext(ctx); info == nil || info.ClientCapabilities == nil || info.ClientCapabilities.Sampling == nil {
			refuse(ctx, &mcp.JSONRPCErrorDetails{
				Code: mcp.MISSING_REQUIRED_CLIENT_CAPABILITY, Message: "this needs sampling",
				Data: map[string]any{"requiredCapabilities": map[string]any{"sampling": map[string]any{}}},
			})
		}
		return mcp.NewToolResultText("done"), nil
	})
}

// notifying are the tools that send something before they answer.
func (f fixture) notifying() {
	const pause = 50 * time.Millisecond // which the suite asks for
	f.tool("test_tool_with_logging", func(ctx context.Context, _ mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		for _, text := range []string{"Tool execution started", "Tool processing data", "Tool execution completed"} {
			if err := f.log(ctx, text); err != nil {
				return nil, err
			}
			time.Sleep(pause)
		}
		return mcp.NewToolResultText("done"), nil
	})
	f.tool("test_logging_tool", func(ctx context.Context, _ mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		return mcp.NewToolResultText("done"), f.log(ctx, "only for who asks for it")
	})
	f.tool("test_tool_with_progress", func(ctx context.Context, req mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		for progress := 0; progress <= 100 && req.Params.Meta != nil; progress += 50 {
			err := f.SendNotificationToClient(ctx, "notifications/progress", map[string]any{
				"progressToken": req.Params.Meta.ProgressToken, "progress": progress, "total": 100,
			})
			if err != nil {
				return nil, err
			}
		}
		return mcp.NewToolResultText("done"), nil
	})
	f.tool("test_trigger_tool_change", func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		f.tool("test_changed", nil)
		f.DeleteTools("test_changed")
		return mcp.NewToolResultText("done"), nil
	})
	f.tool("test_trigger_prompt_change", func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		f.AddPrompt(mcp.NewPrompt("test_changed"), nil)
		f.DeletePrompts("test_changed")
		return mcp.NewToolResultText("done"), nil
	})
}

func (f fixture) log(ctx context.Context, text string) error {
	return f.SendLogMessageToClient(ctx, mcp.NewLoggingMessageNotification(mcp.LoggingLevelInfo, "conformance", text))
}

// object is a schema with these properties, all of them required.
func object(properties map[string]any) map[string]any {
	var names []string
	for name := range properties {
		names = append(names, name)
	}
	return map[string]any{"type": "object", "properties": properties, "required": names}
}

func choices(key string, value any) map[string]any {
	return map[string]any{"type": "string", key: value}
}

func titled(values ...string) (out []any) {
	for _, v := range values {
		out = append(out, map[string]any{"const": v, "title": strings.ToUpper(v)})
	}
	return out
}

// asking are the tools that make requests of the client, until 2025-11-25.
func (f fixture) asking() {
	type property = map[string]any
	f.tool("test_sampling", func(ctx context.Context, req mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		res, err := f.RequestSampling(ctx, mcp.CreateMessageRequest{CreateMessageParams: question(req.GetString("prompt", ""), 100)})
		if err != nil {
			return nil, err
		}
		return mcp.NewToolResultText(fmt.Sprintf("LLM response: %v", res.Content)), nil
	}, mcp.WithString("prompt", mcp.Required()))
	for name, schema := range map[string]map[string]any{
		"test_elicitation": object(property{"username": property{"type": "string"}, "email": property{"type": "string"}}),
		"test_elicitation_sep1034_defaults": object(property{
			"name":     property{"type": "string", "default": "John Doe"},
			"age":      property{"type": "integer", "default": 30},
			"score":    property{"type": "number", "default": 95.5},
			"status":   property{"type": "string", "enum": []string{"active", "inactive", "pending"}, "default": "active"},
			"verified": property{"type": "boolean", "default": true},
		}),
		"test_elicitation_sep1330_enums": object(property{
			"untitledSingle": choices("enum", []string{"option1", "option2", "option3"}),
			"titledSingle":   choices("oneOf", titled("value1", "value2", "value3")),
			"legacyEnum":     property{"type": "string", "enum": []string{"opt1", "opt2"}, "enumNames": []string{"Option One", "Option Two"}},
			"untitledMulti":  property{"type": "array", "items": choices("enum", []string{"option1", "option2"})},
			"titledMulti":    property{"type": "array", "items": property{"anyOf": titled("value1", "value2")}},
		}),
	} {
		f.tool(name, func(ctx context.Context, req mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			res, err := f.RequestElicitation(ctx, mcp.ElicitationRequest{Params: mcp.ElicitationParams{Message: req.GetString("message", name), RequestedSchema: schema}})
			if err != nil {
				return nil, err
			}
			return mcp.NewToolResultText(fmt.Sprintf("User response: action=%s, content=%v", res.Action, res.Content)), nil
		}, mcp.WithString("message"))
	}
}

func question(text string, tokens int) mcp.CreateMessageParams {
	return mcp.CreateMessageParams{Messages: []mcp.SamplingMessage{{Role: mcp.RoleUser, Content: mcp.NewTextContent(text)}}, MaxTokens: tokens}
}

func form(message, field, kind string) mcp.ElicitationParams {
	return mcp.ElicitationParams{Message: message, RequestedSchema: object(map[string]any{field: map[string]any{"type": kind}})}
}

// sign makes a requestState that can't be made by others.
func (f fixture) sign(state string) string {
	mac := hmac.New(sha256.New, f.key)
	mac.Write([]byte(state))
	return state + "." + hex.EncodeToString(mac.Sum(nil))
}

// askingModern are the tools that ask by what they answer, from 2026-07-28 on.
func (f fixture) askingModern() {
	type builder = server.InputRequestBuilder
	ask := func(name string, rounds ...func(*builder)) {
		f.tool(name, func(ctx context.Context, req mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			round := 0
			for i := range rounds { // the state says which of them was asked
				if state := req.Params.RequestState; state != "" && hmac.Equal([]byte(state), []byte(f.sign(fmt.Sprint(name, i)))) {
					round = i + 1
				}
			}
			if req.Params.RequestState != "" && round == 0 {
				refuse(ctx, &mcp.JSONRPCErrorDetails{Code: mcp.INVALID_PARAMS, Message: "requestState is not one of ours"})
			}
			if round == 0 && len(rounds) == 1 && answersAll(rounds[0], req.Params.InputResponses) {
				round = 1 // who asks but once needs no state
			}
			if round == len(rounds) {
				return mcp.NewToolResultText("state-ok"), nil
			}
			b := server.NewInputRequestBuilder(f.sign(fmt.Sprint(name, round)))
			rounds[round](b)
			return b.ToolResult(), nil
		})
	}
	name := func(b *builder) { b.Elicit("user_name", form("What is your name?", "name", "string")) }
	confirm := func(b *builder) { b.Elicit("confirm", form("Please confirm", "ok", "boolean")) }
	ask("test_input_required_result_elicitation", name)
	ask("test_input_required_result_sampling", func(b *builder) { b.Sample("capital_question", question("What is the capital of France?", 100)) })
	ask("test_input_required_result_list_roots", func(b *builder) { b.Roots("client_roots") })
	ask("test_input_required_result_request_state", confirm)
	ask("test_input_required_result_tampered_state", confirm)
	ask("test_input_required_result_capabilities", func(b *builder) { b.Sample("greeting", question("Generate a greeting", 50)) })
	ask("test_input_required_result_multiple_inputs", func(b *builder) {
		name(b)
		b.Sample("greeting", question("Generate a greeting", 50)).Roots("client_roots")
	})
	ask("test_input_required_result_multi_round",
		func(b *builder) { b.Elicit("step1", form("Step 1: What is your name?", "name", "string")) },
		func(b *builder) {
			b.Elicit("step2", form("Step 2: What is your favorite color?", "color", "string"))
		})
	f.tool("test_streaming_elicitation", func(ctx context.Context, _ mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		b := server.NewInputRequestBuilder("")
		name(b)
		return b.ToolResult(), f.SendNotificationToClient(ctx, "notifications/progress", map[string]any{"progressToken": "none", "progress": 1})
	})
}

// answersAll says whether there is a well-formed answer to all that is asked.
func answersAll(ask func(*server.InputRequestBuilder), answers mcp.InputResponses) bool {
	b := server.NewInputRequestBuilder("")
	ask(b)
	requests := b.ToolResult().InputRequests
	for id := range requests {
		if _, ok := answers[id]; !ok {
			return false
		}
	}
	return answers.DecodeFor(requests) == nil
}
