package tools

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Schema is the JSON schema of a flat object. Clients differ in what they make
// of unions, references and nesting, so it can't say any of these.
type Schema struct {
	Properties []Property
	Closed     bool // other properties are refused
}

// Property is one property of a [Schema].
type Property struct {
	Name        string
	Type        string // string, integer, boolean, object (of strings), array (of Items)
	Description string
	Required    bool
	Default     any // nil if there is none
	Min, Max    *int
	Enum        []string
	Items       *Schema
}

// MarshalJSON writes the schema with its properties in the order of the table.
func (s Schema) MarshalJSON() ([]byte, error) {
	var props bytes.Buffer
	required := []string{}
	for i, p := range s.Properties {
		text, err := json.Marshal(p.fields())
		if err != nil {
			return nil, fmt.Errorf("schema of %s: %w", p.Name, err)
		}
		if i > 0 {
			props.WriteByte(',')
		}
		fmt.Fprintf(&props, "%q:%s", p.Name, text)
		if p.Required {
			required = append(required, p.Name)
		}
	}
	out := struct {
		Type       string          `json:"type"`
		Properties json.RawMessage `json:"properties"`
		Required   []string        `json:"required,omitempty"`
		Additional *bool           `json:"additionalProperties,omitempty"`
	}{Type: "object", Properties: json.RawMessage("{" + props.String() + "}"), Required: required}
	if s.Closed {
		out.Additional = new(bool)
	}
	return json.Marshal(out)
}

// fields is the JSON of a property.
func (p Property) fields() any {
	type values struct {
		Type string `json:"type"`
	}
	out := struct {
		Type        string   `json:"type"`
		Description string   `json:"description,omitempty"`
		Enum        []string `json:"enum,omitempty"`
		Default     any      `json:"default,omitempty"`
		Min         *int     `json:"minimum,omitempty"`
		Max         *int     `json:"maximum,omitempty"`
		Values      *values  `json:"additionalProperties,omitempty"`
		Items       *Schema  `json:"items,omitempty"`
	}{p.Type, p.Description, p.Enum, p.Default, p.Min, p.Max, nil, p.Items}
	if p.Type == "object" {
		out.Values = &values{"string"}
	}
	return out
}

// outputOf returns the schema of a result struct, by its json and doc tags.
func outputOf[Out any]() *Schema {
	s := outputSchema(reflect.TypeFor[Out]())
	return &s
}

func outputSchema(t reflect.Type) Schema {
	var s Schema
	for f := range t.Fields() {
		name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		p := Property{Name: name, Description: f.Tag.Get("doc"), Required: opts == ""}
		switch {
		case f.Type == reflect.TypeFor[time.Time]():
			p.Type = "string"
		case f.Type.Kind() == reflect.Slice:
			items := outputSchema(f.Type.Elem())
			p.Type, p.Items = "array", &items
		default:
			p.Type = jsonType(f.Type)
		}
		s.Properties = append(s.Properties, p)
	}
	return s
}

// jsonType names the type of a value in JSON. It panics for one that no tool
// has, which every start of the program would show.
func jsonType(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Pointer:
		return jsonType(t.Elem())
	case reflect.String:
		return "string"
	case reflect.Int, reflect.Int64:
		return "integer"
	case reflect.Bool:
		return "boolean"
	case reflect.Map:
		return "object"
	default:
		panic("tools: no JSON type for " + t.String())
	}
}

// param is an argument of a tool: what the schema says of it and what decode
// does with it. It is made from the tags of a struct field:
//
//	arg      name, and ",required"
//	doc      description
//	default  value when absent
//	min max  limits of an integer
//	enum     allowed values, separated by |
//	bytes    longest string
//	nul      "ok" if the string may hold a NUL byte
//	record   "text" if it is recorded as it is, however long it may be
//	of       "profiles" if they say what is allowed
//
// A field that is a pointer stays nil when the argument is absent.
type param struct {
	Property
	index    []int
	maxBytes int
	nul      bool
	shown    bool
	profiles bool // say what is allowed
}

type params []param

// paramsOf reads the tags of In. adjust changes what the profiles say.
func paramsOf[In any](adjust func(*Property)) params {
	var ps params
	for _, f := range reflect.VisibleFields(reflect.TypeFor[In]()) {
		tag, ok := f.Tag.Lookup("arg")
		if !ok {
			continue
		}
		name, opt, _ := strings.Cut(tag, ",")
		p := param{index: f.Index, nul: f.Tag.Get("nul") == "ok", shown: f.Tag.Get("record") == "text", Property: Property{
			Name: name, Type: jsonType(f.Type), Description: f.Tag.Get("doc"), Required: opt == "required",
			Min: tagInt(f, "min"), Max: tagInt(f, "max"),
		}}
		if n := tagInt(f, "bytes"); n != nil {
			p.maxBytes = *n
		}
		if e := f.Tag.Get("enum"); e != "" {
			p.Enum = strings.Split(e, "|")
		}
		if d, ok := f.Tag.Lookup("default"); ok {
			p.Default = d
			if p.Type == "integer" {
				p.Default = *tagInt(f, "default")
			}
		}
		if f.Tag.Get("of") == "profiles" {
			p.profiles = true
			adjust(&p.Property)
		}
		ps = append(ps, p)
	}
	return ps
}

// tagInt returns the integer in a tag, nil without the tag. It panics if the
// tag is not an integer, which every start of the program would show.
func tagInt(f reflect.StructField, tag string) *int {
	text, ok := f.Tag.Lookup(tag)
	if !ok {
		return nil
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		panic("tools: tag " + tag + " of " + f.Name + ": " + err.Error())
	}
	return &n
}

// ofProfiles says that the profiles say what is allowed.
func (ps params) ofProfiles() bool {
	return slices.ContainsFunc(ps, func(p param) bool { return p.profiles })
}

func (ps params) schema() Schema {
	s := Schema{Closed: true}
	for _, p := range ps {
		s.Properties = append(s.Properties, p.Property)
	}
	return s
}
