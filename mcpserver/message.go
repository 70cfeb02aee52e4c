package mcpserver

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"unicode/utf8"

	"github.com/mark3labs/mcp-go/mcp"
)

// message is what the transport needs to know of a JSON-RPC message.
type message struct {
	ID     json.RawMessage `json:"id"` // nil for a notification
	Method string          `json:"method"`
	Params struct {
		Name      string          `json:"name"`      // of tools/call
		RequestID json.RawMessage `json:"requestId"` // of notifications/cancelled
		Meta      struct {
			Version lenient `json:"io.modelcontextprotocol/protocolVersion"` // of a request from 2026-07-28 on
		} `json:"_meta"`
	} `json:"params"`

	// Of the answer to a request that we made.
	Result json.RawMessage `json:"result"`
	Error  *struct {
		Message string `json:"message"`
	} `json:"error"`
}

// lenient is a string, or whatever else a client may have put there, which
// mcp-go has its own words for.
type lenient string

// UnmarshalJSON never fails.
func (l *lenient) UnmarshalJSON(text []byte) error {
	var s string
	if json.Unmarshal(text, &s) == nil {
		*l = lenient(s)
	}
	return nil
}

// parse reads a message. The error, if any, is to be answered to msg.ID.
func parse(line []byte) (msg message, problem *mcp.JSONRPCErrorDetails) {
	if !utf8.Valid(line) {
		return msg, &mcp.JSONRPCErrorDetails{Code: mcp.PARSE_ERROR, Message: "message is not valid UTF-8; send binary content as base64"}
	}
	err := json.Unmarshal(line, &msg)
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &syntax):
		return message{}, &mcp.JSONRPCErrorDetails{Code: mcp.PARSE_ERROR, Message: "message is not valid JSON: " + syntax.Error()}
	case bytes.HasPrefix(bytes.TrimSpace(line), []byte("[")):
		return message{}, &mcp.JSONRPCErrorDetails{Code: mcp.INVALID_REQUEST, Message: "batches are not supported; send one message a line"}
	case msg.ID != nil && key(msg.ID) == "":
		return message{}, &mcp.JSONRPCErrorDetails{Code: mcp.INVALID_REQUEST, Message: "id must be a string or a number"}
	case err != nil:
		return msg, &mcp.JSONRPCErrorDetails{Code: mcp.INVALID_REQUEST, Message: malformed(err)}
	}
	return msg, nil
}

// malformed words that a message is JSON, but not of JSON-RPC. The error itself
// names our types.
func malformed(err error) string {
	const text = "not a JSON-RPC message"
	var wrong *json.UnmarshalTypeError
	if !errors.As(err, &wrong) || wrong.Field == "" {
		return text
	}
	field := wrong.Field[max(0, strings.Index(wrong.Field, "params")):] // before it there may be types, too
	return text + ": " + field + " can't be a JSON " + short(wrong.Value)
}

// key makes ids comparable: "5" and 5 differ, "a" and "\u0061" don't. It is
// empty for what can't be an id.
func key(id json.RawMessage) string {
	var s string
	switch {
	case len(id) == 0:
		return ""
	case id[0] == '"' && json.Unmarshal(id, &s) == nil:
		return "s" + s
	case id[0] == '-' || id[0] >= '0' && id[0] <= '9':
		return "n" + string(id)
	}
	return ""
}

// response is the answer to a request.
type response struct {
	JSONRPC string                   `json:"jsonrpc"`
	ID      json.RawMessage          `json:"id"` // nil is sent as null
	Result  any                      `json:"result,omitempty"`
	Error   *mcp.JSONRPCErrorDetails `json:"error,omitempty"`
}

// refusal is a response that is an error.
func refusal(id json.RawMessage, problem *mcp.JSONRPCErrorDetails) response {
	return response{JSONRPC: mcp.JSONRPC_VERSION, ID: id, Error: problem}
}

// toResponse is mcp-go's answer with the id of the request as the client wrote
// it: mcp-go reads numbers as floating point.
func toResponse(answer mcp.JSONRPCMessage, id json.RawMessage) response {
	switch a := answer.(type) {
	case mcp.JSONRPCResponse:
		return response{JSONRPC: mcp.JSONRPC_VERSION, ID: id, Result: a.Result}
	case mcp.JSONRPCError:
		return refusal(id, &a.Error)
	}
	return refusal(id, &mcp.JSONRPCErrorDetails{Code: mcp.INVALID_REQUEST, Message: "not a request"})
}
