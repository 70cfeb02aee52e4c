package config

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/agnivade/levenshtein"
	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/agentlab-mcp/agentlab/internal/redact"
)

// decode sets the fields of the struct *into from a file of "key: value" lines
// and leaves alone those that the file does not name. Every mistake in the
// file is reported, with its line, in the words of the file and not of Go:
// that is why the tree is walked here and not left to the library's decoder.
func decode(file string, data []byte, into any) error {
	tree, err := parser.ParseBytes(data, 0)
	if err != nil {
		var at yaml.Error
		if errors.As(err, &at) && at.GetToken() != nil {
			return fmt.Errorf("%s:%d: %s", file, at.GetToken().Position.Line, redact.Text(at.GetMessage()))
		}
		return fmt.Errorf("%s: %w", file, err)
	}
	fields := fieldsOf(into)
	var errs []error
	for i, doc := range tree.Docs {
		if doc.Body == nil {
			continue
		}
		line := doc.Body.GetToken().Position.Line
		m, ok := doc.Body.(ast.MapNode)
		switch {
		case i > 0:
			errs = append(errs, fmt.Errorf("%s:%d: a second document; want one", file, line))
			continue
		case !ok:
			if doc.Body.Type() != ast.CommentType {
				errs = append(errs, fmt.Errorf("%s:%d: want lines of the form \"key: value\"", file, line))
			}
			continue
		}
		errs = append(errs, setAll(file, "", fields, m)...)
	}
	return errors.Join(errs...)
}

// keyLines returns the line of each key of a file, of one below another as
// "pool.size"; nothing of a file that is not of that form.
func keyLines(data []byte) map[string]int {
	lines := map[string]int{}
	tree, err := parser.ParseBytes(data, 0)
	if err != nil || len(tree.Docs) == 0 {
		return lines
	}
	var note func(within string, m ast.MapNode)
	note = func(within string, m ast.MapNode) {
		for it := m.MapRange(); it.Next(); {
			tok := it.Key().GetToken()
			lines[within+tok.Value] = tok.Position.Line
			if below, ok := it.Value().(ast.MapNode); ok {
				note(within+tok.Value+".", below)
			}
		}
	}
	if m, ok := tree.Docs[0].Body.(ast.MapNode); ok {
		note("", m)
	}
	return lines
}

// setAll sets the fields of the keys of m, which stand below one called within,
// such as "pool."; it is empty for those of the file.
func setAll(file, within string, fields map[string]reflect.Value, m ast.MapNode) (errs []error) {
	for it := m.MapRange(); it.Next(); {
		tok := it.Key().GetToken()
		field, ok := fields[tok.Value]
		below, isMap := it.Value().(ast.MapNode)
		var err error
		switch {
		case !ok:
			err = unknownKey(within, tok.Value, slices.Sorted(maps.Keys(fields)))
		case field.Kind() == reflect.Struct && field.Type() != reflect.TypeFor[VMIDs]() && isMap:
			errs = append(errs, setAll(file, within+tok.Value+".", fieldsOf(field.Addr().Interface()), below)...)
		default:
			err = set(field, within+tok.Value, it.Value())
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s:%d: %w", file, tok.Position.Line, err))
		}
	}
	return errs
}

// set sets the field of that key. A key without a value is as if it were not there.
func set(field reflect.Value, key string, value ast.Node) error {
	if value.Type() == ast.NullType {
		return nil
	}
	want, fits := kindOf(field.Type())
	if !fits(value) || yaml.NodeToValue(value, field.Addr().Interface(), yaml.Strict()) != nil {
		if field.Type() == reflect.TypeFor[redact.String]() {
			return fmt.Errorf("%s: want %s", key, want)
		}
		got := redact.Text(strings.TrimSpace(value.String()))
		return fmt.Errorf("%s: got %.60q, want %s", key, got, want)
	}
	return nil
}

// kindOf says in words what a field of type t takes, and which nodes may be that.
func kindOf(t reflect.Type) (want string, fits func(ast.Node) bool) {
	scalar := func(n ast.Node) bool { _, ok := n.(ast.ScalarNode); return ok }
	switch {
	case t == reflect.TypeFor[time.Duration]():
		return "a duration such as 30s, 5m or 1h30m", scalar
	case t == reflect.TypeFor[VMIDs]():
		return "the first and the last VMID such as 10000-19999", scalar
	case t.Kind() == reflect.Bool:
		return "true or false", func(n ast.Node) bool { return n.Type() == ast.BoolType }
	case t.Kind() == reflect.Int:
		return "a whole number", func(n ast.Node) bool { return n.Type() == ast.IntegerType }
	case t.Kind() == reflect.Struct:
		var keys []string
		for f := range t.Fields() {
			keys = append(keys, f.Tag.Get("yaml"))
		}
		return "keys and values, of " + strings.Join(keys, ", "), func(ast.Node) bool { return false }
	case t.Kind() == reflect.Slice:
		return `a list of texts such as ["/bin/sh", "-c"]`, func(n ast.Node) bool { return n.Type() == ast.SequenceType }
	}
	return "a text", scalar
}

// hostPathKeys are what other programs call a path of the host that the inside
// of a machine sees. There is none here, and it must not be taken for a slip.
var hostPathKeys = []string{
	"mount", "mounts", "bind", "binds", "bind_mount", "bind_mounts", "volume", "volumes", "device", "devices", "host_path", "host_paths", "hostpath",
	"host_dir", "host_dirs", "shared_dir", "shared_dirs", "shared_folder", "shared_folders", "share", "shares", "virtiofs", "virtio_fs", "9p",
}

func unknownKey(within, key string, known []string) error {
	key = redact.Text(key)
	if slices.Contains(hostPathKeys, strings.ToLower(key)) {
		return fmt.Errorf("unknown key %q: no path of the host is ever mounted into a sandbox; copy files into it, or have them in what it is made from", within+key)
	}
	near := slices.MinFunc(known, func(a, b string) int { return distance(key, a) - distance(key, b) })
	if distance(key, near) <= max(2, len(key)/2) {
		return fmt.Errorf("unknown key %q; did you mean %q?", within+key, within+near)
	}
	return fmt.Errorf("unknown key %q; the keys are: %s", within+key, within+strings.Join(known, ", "+within))
}

// distance is how far a key is from one that is known. One that lacks a word,
// such as proxmox_url of proxmox_api_url, is near, however long the word.
func distance(key, known string) int {
	words := strings.Split(known, "_")
	for w := range strings.SplitSeq(key, "_") {
		if !slices.Contains(words, w) {
			return levenshtein.ComputeDistance(key, known)
		}
	}
	return 1
}

// fieldsOf returns the fields of the struct that p points to by the keys in
// their yaml tags, those of structs that are inline among them.
func fieldsOf(p any) map[string]reflect.Value {
	v := reflect.ValueOf(p).Elem()
	fields := make(map[string]reflect.Value, v.NumField())
	for i := range v.NumField() {
		switch key := v.Type().Field(i).Tag.Get("yaml"); key {
		case "", "-":
		case ",inline":
			maps.Copy(fields, fieldsOf(v.Field(i).Addr().Interface()))
		default:
			fields[key] = v.Field(i)
		}
	}
	return fields
}
