package main

import (
	"cmp"
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

// manifest is what a desktop client reads of the bundle with all of AgentLab.
func manifest(b built) object {
	m := common(b, "agentlab", "AgentLab", description, object{
		"args": []string{"mcp", "--allow-host-dir=${user_config.host_dir}"},
	})
	m["keywords"] = []string{"sandbox", "linux", "gvisor", "proxmox", "exec"}
	m["tools"], m["tools_generated"] = manifestTools(), true // those for files of the user's are there with host_dir
	m["user_config"] = object{
		"host_dir": object{
			"type": "directory", "title": "Directory to share", "required": false, "default": "",
			"description": "Agents may copy files between this directory and their sandboxes. Without one they can't.",
		},
	}
	return m
}

// remoteManifest is that of the bundle with only the bridge to a server
// elsewhere. Which tools there are is the server's to say.
func remoteManifest(b built) object {
	m := common(b, "agentlab-remote", "AgentLab (your team's server)", "Disposable Linux machines for agents, on an AgentLab server that your team runs.", object{
		"args": []string{"--server", "${user_config.server}"},
		"env":  object{"AGENTLAB_TOKEN": "${user_config.token}"},
	})
	m["keywords"] = []string{"sandbox", "linux", "remote", "exec"}
	m["tools_generated"] = true
	m["user_config"] = object{
		"server": object{
			"type": "string", "title": "Server", "required": true,
			"description": "Its address, such as https://lab.example.org:8765",
		},
		"token": object{
			"type": "string", "title": "Token", "required": true, "sensitive": true,
			"description": "What agentlab token create has printed for you on the server",
		},
	}
	return m
}

// common is what both have: MCPB manifest 0.3. The first of the programs is
// started as config says.
func common(b built, name, title, description string, config object) object {
	program := "server/" + filepath.Base(b.programs[0])
	config["command"] = "${__dirname}/" + program
	platform := map[string]string{"windows": "win32"}[b.os] // as Node.js calls it
	return object{
		"manifest_version":  "0.3",
		"name":              name,
		"display_name":      title,
		"version":           b.version,
		"description":       description,
		"author":            object{"name": "AgentLab", "url": repository},
		"repository":        object{"type": "git", "url": repository + ".git"},
		"documentation":     repository + "#readme",
		"support":           repository + "/issues",
		"license":           "Apache-2.0",
		"server":            object{"type": "binary", "entry_point": program, "mcp_config": config},
		"prompts_generated": true,
		"compatibility":     object{"platforms": []string{cmp.Or(platform, b.os)}},
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
// of 2025-12-11, whose description has at most 100 characters. It has no remotes:
// these are for a server at one address that everybody can reach, and an AgentLab
// is where its owner runs it.
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
