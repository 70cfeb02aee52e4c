package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"

	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/tools"
)

const (
	repository  = "https://github.com/agentlab-mcp/agentlab"
	description = "Disposable Linux machines for agents: create, run commands, read and write files, destroy."
)

type object = map[string]any

// manifest is what a desktop client reads of a bundle: MCPB manifest 0.3.
func manifest(b built) object {
	return object{
		"manifest_version": "0.3",
		"name":             "agentlab",
		"display_name":     "AgentLab",
		"version":          b.version,
		"description":      description,
		"author":           object{"name": "AgentLab", "url": repository},
		"repository":       object{"type": "git", "url": repository + ".git"},
		"documentation":    repository + "#readme",
		"support":          repository + "/issues",
		"license":          "Apache-2.0",
		"keywords":         []string{"sandbox", "linux", "gvisor", "proxmox", "exec"},
		"server": object{
			"type":        "binary",
			"entry_point": "server/agentlab",
			"mcp_config":  object{"command": "${__dirname}/server/agentlab", "args": []string{"mcp"}},
		},
		"tools":             manifestTools(),
		"prompts_generated": true,
		"compatibility":     object{"platforms": []string{"linux"}},
	}
}

// manifestTools names the tools for people who look at the bundle before they
// install it.
func manifestTools() []object {
	var list []object
	for _, t := range tools.All(nil, sessions.BuiltinProfiles(), slog.New(slog.DiscardHandler)) {
		if t.Offered != nil { // not to everybody
			continue
		}
		first, _, _ := strings.Cut(t.Description, ". ")
		list = append(list, object{"name": t.Name, "description": strings.TrimSuffix(first, ".")})
	}
	return list
}

// registryPackage is one way to get the server, in the registry's words.
type registryPackage struct {
	RegistryType string `json:"registryType"`
	Identifier   string `json:"identifier"`
	Version      string `json:"version"`
	SHA256       string `json:"fileSha256"`
	Transport    object `json:"transport"`
}

// packageOf describes a bundle that is published with a release.
func packageOf(bundle, version string) (registryPackage, error) {
	sum, err := sha256sum(bundle)
	return registryPackage{
		RegistryType: "mcpb",
		Identifier:   fmt.Sprintf("%s/releases/download/v%s/%s", repository, version, filepath.Base(bundle)),
		Version:      version,
		SHA256:       sum,
		Transport:    object{"type": "stdio"},
	}, err
}

// writeRegistry writes what the MCP registry is told: server.json of its schema
// of 2025-12-11, whose description has at most 100 characters.
func writeRegistry(name, version string, packages []registryPackage) error {
	return create(name, func(w io.Writer) error {
		return writeJSON(w, object{
			"$schema":     "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json",
			"name":        "io.github.agentlab-mcp/agentlab",
			"title":       "AgentLab",
			"description": description,
			"version":     version,
			"repository":  object{"url": repository, "source": "github"},
			"packages":    packages,
		})
	})
}

func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
