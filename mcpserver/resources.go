package mcpserver

import (
	"context"
	"encoding/base64"
	"errors"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"

	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/tools"
)

// offerResources registers the resources. Which of them a URI is of, they say
// themselves: mcp-go would match templates in no order, and has its own words
// for what matches none.
func (s *Server) offerResources(hooks *server.Hooks) {
	var known string // a URI that mcp-go has
	for _, r := range s.Resources.Table {
		if len(r.Variables) > 0 {
			s.mcp.AddResourceTemplate(mcp.NewResourceTemplate(r.URI, r.Name, mcp.WithTemplateTitle(r.Title),
				mcp.WithTemplateDescription(r.Description), mcp.WithTemplateMIMEType(r.MIME)), s.readResource)
			continue
		}
		known = r.URI
		s.mcp.AddResource(mcp.NewResource(r.URI, r.Name, mcp.WithResourceTitle(r.Title),
			mcp.WithResourceDescription(r.Description), mcp.WithMIMEType(r.MIME)), s.readResource)
	}
	hooks.AddBeforeReadResource(func(_ context.Context, _ any, req *mcp.ReadResourceRequest) {
		req.Params.Arguments, req.Params.URI = map[string]any{askedURI: req.Params.URI}, known
	})
}

// askedURI is the argument of readResource in which the URI is that was asked for.
const askedURI = "uri"

// readResource answers every resources/read.
func (s *Server) readResource(ctx context.Context, req mcp.ReadResourceRequest) ([]mcp.ResourceContents, error) {
	uri, _ := req.Params.Arguments[askedURI].(string)
	res := s.read(ctx, "resource", uri, req.Params.Meta)
	if res.IsError {
		return nil, refused(ctx, res, uri)
	}
	c := res.Content[0]
	if c.Data != nil {
		return []mcp.ResourceContents{mcp.BlobResourceContents{URI: uri, MIMEType: c.MIME, Blob: base64.StdEncoding.EncodeToString(c.Data)}}, nil
	}
	return []mcp.ResourceContents{mcp.TextResourceContents{URI: uri, MIMEType: c.MIME, Text: c.Text}}, nil
}

// read reads a resource. kind is what the log calls that.
func (s *Server) read(ctx context.Context, kind, uri string, meta *mcp.Meta) tools.Result {
	name, need := "", sessions.ScopeRead // of what there is not
	if r := s.Resources.Find(uri); r != nil {
		name, need = r.Name, r.Scope
	}
	return s.perform(ctx, work{
		kind: kind, name: name, need: need, doing: "reading " + name, meta: meta,
		do:     func(ctx context.Context) tools.Result { return s.Resources.Read(ctx, uri) },
		record: recordedRead(kind, uri),
	})
}

// maxEcho bounds a URI that is repeated in an error, in bytes.
const maxEcho = 16 << 10

// refused answers a request that is no tool's with the error in res. uri is
// that of a resource, or empty. The codes are the specification's
// (server/resources and server/prompts, error handling): what is not found had
// one of its own until 2025-11-25.
func refused(ctx context.Context, res tools.Result, uri string) error {
	text := res.Content[0].Text
	problem := mcp.NewJSONRPCErrorDetails(mcp.INTERNAL_ERROR, text, nil)
	switch {
	case res.Outcome == sessions.NotFound.String() && !server.IsModernRequest(ctx):
		problem.Code = mcp.RESOURCE_NOT_FOUND
	case res.Outcome == sessions.NotFound.String(), res.Outcome == sessions.Invalid.String():
		problem.Code = mcp.INVALID_PARAMS
	}
	if uri != "" && len(uri) <= maxEcho {
		problem.Data = map[string]string{"uri": uri}
	}
	refuse(ctx, &problem)
	return errors.New(text)
}
