//go:build e2e

package mcpserver

import (
	"context"
	"fmt"
	"strings"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"
)

// schemas are the tools whose schemas are what is tested.
func (f fixture) schemas() {
	done := func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		return mcp.NewToolResultText("done"), nil
	}
	f.AddTool(mcp.NewToolWithRawSchema("json_schema_2020_12_tool", "has what JSON Schema 2020-12 has", []byte(`{
		"$schema": "https://json-schema.org/draft/2020-12/schema",
		"type": "object",
		"$defs": {"address": {"$anchor": "addressDef", "type": "object", "properties": {"street": {"type": "string"}, "city": {"type": "string"}}}},
		"properties": {
			"name": {"type": "string"}, "address": {"$ref": "#/$defs/address"},
			"contactMethod": {"type": "string", "enum": ["phone", "email"]}, "phone": {"type": "string"}, "email": {"type": "string"}
		},
		"allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
		"if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
		"then": {"required": ["phone"]},
		"else": {"required": ["email"]},
		"additionalProperties": false
	}`)), done)
	f.AddTool(mcp.NewToolWithRawSchema("test_custom_header", "is told its region in a header, too", []byte(`{
		"type": "object",
		"properties": {"region": {"type": "string", "x-mcp-header": "Region"}},
		"required": ["region"]
	}`)), done)
}

func (f fixture) resources() {
	for uri, content := range map[string]mcp.ResourceContents{
		"test://static-text":      mcp.TextResourceContents{URI: "test://static-text", MIMEType: "text/plain", Text: "This is the content of the static text resource."},
		"test://static-binary":    mcp.BlobResourceContents{URI: "test://static-binary", MIMEType: "image/png", Blob: png},
		"test://watched-resource": mcp.TextResourceContents{URI: "test://watched-resource", MIMEType: "text/plain", Text: "watched"},
	} {
		f.AddResource(mcp.NewResource(uri, strings.TrimPrefix(uri, "test://")), func(context.Context, mcp.ReadResourceRequest) ([]mcp.ResourceContents, error) {
			return []mcp.ResourceContents{content}, nil
		})
	}
	f.AddResourceTemplate(mcp.NewResourceTemplate("test://template/{id}/data", "template"), func(_ context.Context, req mcp.ReadResourceRequest) ([]mcp.ResourceContents, error) {
		id := strings.Split(req.Params.URI, "/")[3]
		text := fmt.Sprintf(`{"id":%q,"templateTest":true,"data":"Data for ID: %s"}`, id, id)
		return []mcp.ResourceContents{mcp.TextResourceContents{URI: req.Params.URI, MIMEType: "application/json", Text: text}}, nil
	})
}

func (f fixture) prompts() {
	user := func(content ...mcp.Content) *mcp.GetPromptResult {
		res := &mcp.GetPromptResult{}
		for _, c := range content {
			res.Messages = append(res.Messages, mcp.NewPromptMessage(mcp.RoleUser, c))
		}
		return res
	}
	prompt := func(name string, answer func(mcp.GetPromptRequest) *mcp.GetPromptResult, args ...string) {
		opts := []mcp.PromptOption{mcp.WithPromptDescription("what the suite wants of " + name)}
		for _, arg := range args {
			opts = append(opts, mcp.WithArgument(arg, mcp.RequiredArgument()))
		}
		f.AddPrompt(mcp.NewPrompt(name, opts...), func(_ context.Context, req mcp.GetPromptRequest) (*mcp.GetPromptResult, error) {
			return answer(req), nil
		})
	}
	prompt("test_simple_prompt", func(mcp.GetPromptRequest) *mcp.GetPromptResult {
		return user(mcp.NewTextContent("This is a simple prompt for testing."))
	})
	prompt("test_prompt_with_arguments", func(req mcp.GetPromptRequest) *mcp.GetPromptResult {
		a := req.Params.Arguments
		return user(mcp.NewTextContent(fmt.Sprintf("Prompt with arguments: arg1='%s', arg2='%s'", a["arg1"], a["arg2"])))
	}, "arg1", "arg2")
	prompt("test_prompt_with_embedded_resource", func(req mcp.GetPromptRequest) *mcp.GetPromptResult {
		return user(mcp.NewEmbeddedResource(mcp.TextResourceContents{URI: req.Params.Arguments["resourceUri"], MIMEType: "text/plain", Text: "Embedded resource content for testing."}),
			mcp.NewTextContent("Please process the embedded resource above."))
	}, "resourceUri")
	prompt("test_prompt_with_image", func(mcp.GetPromptRequest) *mcp.GetPromptResult {
		return user(mcp.NewImageContent(png, "image/png"), mcp.NewTextContent("Please analyze the image above."))
	})
	prompt("test_input_required_result_prompt", func(req mcp.GetPromptRequest) *mcp.GetPromptResult {
		if answer, ok := req.Params.InputResponses["user_context"]; ok && answer.DecodeFor(mcp.MethodElicitationCreate) == nil {
			return user(mcp.NewTextContent("done"))
		}
		return server.NewInputRequestBuilder("").Elicit("user_context", form("What context should the prompt use?", "context", "string")).PromptResult()
	})
}
