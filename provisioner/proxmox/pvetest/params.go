package pvetest

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// param says what a parameter may be. The tables of the routes give it as text:
//
//	name=type[:argument][,rule...]   name!=...   is required
//
// A type is bool, int, num, array, enum:a/b/c, re:PATTERN, word, string, or a format
// of checkFormat. Rules are min=, max=, len= (the longest
// string), least= (the shortest), and needs= (another parameter).
type param struct {
	kind     string // string, integer, number, boolean, array
	format   string // for checkFormat
	enum     []string
	pattern  *regexp.Regexp
	required bool
	min, max float64 // NaN is none
	maxLen   int
	minLen   int
	needs    string
}

// parseParams reads the text of a table. A name with "[n]" stands for name0 to
// name255; the table is keyed by the name with "[n]".
func parseParams(text string) map[string]*param {
	specs := map[string]*param{}
	for field := range strings.FieldsSeq(text) {
		name, def, ok := strings.Cut(field, "=")
		if !ok {
			name, def = field, "string"
		}
		p := parseParam(def)
		if n, req := strings.CutSuffix(name, "!"); req {
			name, p.required = n, true
		}
		specs[name] = p
	}
	return specs
}

func parseParam(def string) *param {
	p := &param{kind: "string", min: math.NaN(), max: math.NaN()}
	if pattern, ok := strings.CutPrefix(def, "re:"); ok { // a pattern may have commas: it takes no rules
		p.pattern = regexp.MustCompile("^(?:" + pattern + ")$")
		return p
	}
	rules := strings.Split(def, ",")
	typ, arg, _ := strings.Cut(rules[0], ":")
	switch typ {
	case "bool":
		p.kind = "boolean"
	case "int":
		p.kind = "integer"
	case "num":
		p.kind = "number"
	case "array":
		p.kind = "array"
	case "enum":
		p.enum = strings.Split(arg, "/")
	case "string":
	case "word":
		p.pattern = fwWord
	case "vmid":
		p.kind, p.format, p.min, p.max = "integer", "vmid", 100, 999999999
	default:
		p.format = typ
	}
	for _, rule := range rules[1:] {
		k, v, _ := strings.Cut(rule, "=")
		n, _ := strconv.ParseFloat(v, 64)
		switch k {
		case "min":
			p.min = n
		case "max":
			p.max = n
		case "len":
			p.maxLen = int(n)
		case "least":
			p.minLen = int(n)
		case "needs":
			p.needs = v
		}
	}
	return p
}

// pathSpec is what a part of a path may be.
func pathSpec(name string) *param {
	switch name {
	case "vmid":
		return required("vmid")
	case "node":
		return required("node")
	case "storage":
		return required("storage-id")
	case "snapname":
		return required("configid,len=40")
	case "userid":
		return required("userid,len=64")
	case "tokenid":
		return required(`re:[A-Za-z][A-Za-z0-9.\-_]+`)
	case "roleid":
		return required("roleid")
	case "poolid":
		return required("poolid")
	}
	return required("string")
}

func required(def string) *param {
	p := parseParam(def)
	p.required = true
	return p
}

var indexed = regexp.MustCompile(`^([a-z]+)([0-9]{1,3})$`)

// specOf finds the entry of a table, also of an indexed name.
func specOf(specs map[string]*param, name string) *param {
	if p := specs[name]; p != nil {
		return p
	}
	if m := indexed.FindStringSubmatch(name); m != nil {
		if m[2] != "0" && m[2][0] == '0' {
			return nil
		}
		if n, _ := strconv.Atoi(m[2]); n < maxIndex(m[1]) {
			return specs[m[1]+"[n]"]
		}
	}
	return nil
}

// maxIndex is how many options of an indexed name there are
// (QemuServer/Drive.pm, QemuServer.pm).
func maxIndex(name string) int {
	switch name {
	case "ide", "serial":
		return 4
	case "scsi":
		return 31
	case "virtio", "hostpci":
		return 16
	case "sata":
		return 6
	case "net", "ipconfig":
		return 32
	case "usb":
		return 14
	case "parallel":
		return 3
	case "numa":
		return 8
	case "virtiofs":
		return 10
	}
	return 256
}

// check returns the error of every parameter that is wrong, in the words of
// PVE::JSONSchema (pve-common JSONSchema.pm check_prop).
func (p params) check(specs map[string]*param) map[string]string {
	errs := map[string]string{}
	for name, spec := range specs {
		if spec.required && !p.has(name) {
			errs[name] = "property is missing and it is not optional"
		}
	}
	names := make([]string, 0, len(p))
	for name := range p {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		spec := specOf(specs, name)
		if spec == nil {
			errs[name] = "property is not defined in schema and the schema does not allow additional properties"
			continue
		}
		if msg := spec.wrong(name, p[name]); msg != "" {
			errs[name] = msg
		} else if spec.kind == "array" {
			if s, ok := p[name].(string); ok {
				p[name] = []string{s}
			}
		}
		if spec.needs != "" && !p.has(spec.needs) {
			errs[spec.needs] = fmt.Sprintf("missing property - '%s' requires this property", name)
		}
	}
	return errs
}

// wrong is what PVE says of a value, empty if it is right.
func (s *param) wrong(name string, v any) string {
	text, isText := v.(string)
	switch v.(type) {
	case map[string]any:
		return fmt.Sprintf("type check ('%s') failed - got HASH", s.kind)
	case []string:
		if s.kind != "array" {
			return fmt.Sprintf("type check ('%s') failed - got ARRAY", s.kind)
		}
		return ""
	}
	if s.kind == "array" {
		if !isText || text == "" {
			return "type check ('array') failed"
		}
		return ""
	}
	if msg := s.wrongType(text); msg != "" {
		return msg
	}
	if s.format != "" {
		if msg := checkFormat(s.format, name, text); msg != "" {
			return "invalid format - " + msg + "\n"
		}
	}
	return s.wrongValue(text)
}

var (
	integerText = regexp.MustCompile(`^[+-]?[0-9]+$`)
	numberText  = regexp.MustCompile(`^[+-]?[0-9]*(\.[0-9]*)?([eE][+-]?[0-9]+)?$`)
)

func (s *param) wrongType(text string) string {
	ok := true
	switch s.kind {
	case "integer":
		ok = integerText.MatchString(text)
	case "number":
		ok = text != "" && numberText.MatchString(text)
	case "boolean":
		ok = isTrue(text) || isFalse(text)
	}
	if !ok {
		return fmt.Sprintf("type check ('%s') failed - got '%s'", s.kind, text)
	}
	return ""
}

func (s *param) wrongValue(text string) string {
	switch {
	case s.maxLen > 0 && len([]rune(text)) > s.maxLen:
		return fmt.Sprintf("value may only be %d characters long", s.maxLen)
	case s.minLen > 0 && len([]rune(text)) < s.minLen:
		return fmt.Sprintf("value must be at least %d characters long", s.minLen)
	case s.pattern != nil && !s.pattern.MatchString(text):
		return "value does not match the regex pattern"
	case s.enum != nil && !slices.Contains(s.enum, text):
		return fmt.Sprintf("value '%s' does not have a value in the enumeration '%s'", text, strings.Join(s.enum, ", "))
	}
	if s.kind != "integer" && s.kind != "number" {
		return ""
	}
	n, _ := strconv.ParseFloat(text, 64)
	switch {
	case n < s.min:
		return fmt.Sprintf("value must have a minimum value of %g", s.min)
	case n > s.max:
		return fmt.Sprintf("value must have a maximum value of %g", s.max)
	}
	return ""
}

// isTrue and isFalse are the words PVE takes for a boolean.
func isTrue(s string) bool {
	switch strings.ToLower(s) {
	case "1", "on", "yes", "true":
		return true
	}
	return false
}

func isFalse(s string) bool {
	switch strings.ToLower(s) {
	case "0", "off", "no", "false":
		return true
	}
	return false
}
