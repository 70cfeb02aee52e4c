package tools

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/agnivade/levenshtein"

	"github.com/agentlab-mcp/agentlab/sessions"
)

// decode reads the arguments of a call into the struct that in points to. It
// accepts what models write when they mean the right thing ("5" and 5.0 for 5,
// null for absent), and reports all that is wrong at once.
func (ps params) decode(args json.RawMessage, in any) error {
	given := map[string]json.RawMessage{}
	if len(bytes.TrimSpace(args)) > 0 {
		if err := json.Unmarshal(args, &given); err != nil {
			return sessions.Errorf(sessions.Invalid, "arguments must be a JSON object with %s", ps.names())
		}
	}
	var problems []string
	dst := reflect.ValueOf(in).Elem()
	for _, p := range ps {
		raw, ok := given[p.Name]
		delete(given, p.Name)
		if err := p.set(dst.FieldByIndex(p.index), raw, ok); err != nil {
			problems = append(problems, p.Name+": "+err.Error())
		}
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		problems = append(problems, ps.unknown(name))
	}
	if len(problems) == 0 {
		return nil
	}
	return sessions.Errorf(sessions.Invalid, "%s", strings.Join(problems, "\n"))
}

func (ps params) names() string {
	var names []string
	for _, p := range ps {
		names = append(names, p.Name)
	}
	return strings.Join(names, ", ")
}

// unknown words that there is no argument of that name.
func (ps params) unknown(name string) string {
	best, dist := "", len(name)/2+1
	for _, p := range ps {
		if d := levenshtein.ComputeDistance(brief(name), p.Name); d < dist {
			best, dist = p.Name, d
		}
	}
	if best != "" {
		return fmt.Sprintf("%q is not an argument; did you mean %s?", brief(name), best)
	}
	return fmt.Sprintf("%q is not an argument; there are %s", brief(name), ps.names())
}

// set stores one argument, or its default, in the field dst.
func (p *param) set(dst reflect.Value, raw json.RawMessage, given bool) error {
	if !given || string(raw) == "null" {
		if p.Required {
			return fmt.Errorf("is required (%s)", p.Type)
		}
		if p.Default != nil {
			dst.Set(reflect.ValueOf(p.Default).Convert(dst.Type()))
		}
		return nil
	}
	if dst.Kind() == reflect.Pointer {
		dst.Set(reflect.New(dst.Type().Elem()))
		dst = dst.Elem()
	}
	switch dst.Kind() {
	case reflect.String:
		s, err := p.text(raw)
		dst.SetString(s)
		return err
	case reflect.Bool:
		b, err := strconv.ParseBool(strings.ToLower(unquote(raw)))
		if err != nil {
			return fmt.Errorf("%s must be true or false", show(raw))
		}
		dst.SetBool(b)
		return nil
	case reflect.Map:
		m, err := p.strings(raw)
		dst.Set(reflect.ValueOf(m))
		return err
	default:
		n, err := p.integer(raw)
		dst.SetInt(int64(n))
		return err
	}
}

// integer reads 5, 5.0 and "5".
func (p *param) integer(raw json.RawMessage) (int, error) {
	text := strings.TrimSpace(unquote(raw))
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || f != math.Trunc(f) || math.Abs(f) > 1<<40 {
		hint := ""
		if d, err := time.ParseDuration(text); err == nil && strings.HasSuffix(p.Name, "_seconds") {
			hint = fmt.Sprintf("; for %s give %d", text, int(d.Seconds()))
		}
		return 0, fmt.Errorf("%s is not a whole number%s%s", show(raw), p.allowed(), hint)
	}
	n := int(f)
	if p.Min != nil && n < *p.Min || p.Max != nil && n > *p.Max {
		return 0, fmt.Errorf("%d is out of range%s", n, p.allowed())
	}
	return n, nil
}

// allowed words the limits of an integer.
func (p *param) allowed() string {
	switch {
	case p.Min != nil && p.Max != nil:
		return fmt.Sprintf(" (allowed: %d to %d)", *p.Min, *p.Max)
	case p.Min != nil:
		return fmt.Sprintf(" (allowed: %d or more)", *p.Min)
	}
	return ""
}

// text reads a string, or a number as it is written.
func (p *param) text(raw json.RawMessage) (string, error) {
	if c := raw[0]; c == '{' || c == '[' || c == 't' || c == 'f' {
		if p.isContents() {
			return "", errors.New("must be a string")
		}
		return "", fmt.Errorf("%s must be a string", show(raw))
	}
	s := unquote(raw)
	switch {
	case p.maxBytes > 0 && len(s) > p.maxBytes:
		return "", fmt.Errorf("has %s bytes, at most %s are allowed%s", thousands(len(s)), thousands(p.maxBytes), p.elsewhere())
	case !p.nul && strings.ContainsRune(s, 0):
		return "", fmt.Errorf("must not contain a NUL character (\\u0000)")
	case p.Enum != nil:
		i := slices.IndexFunc(p.Enum, func(e string) bool { return strings.EqualFold(e, s) })
		if i < 0 {
			return "", fmt.Errorf("%s is not one of %s", show(raw), strings.Join(p.Enum, ", "))
		}
		s = p.Enum[i]
	}
	return s, nil
}

// elsewhere says what to do with a string that is too long.
func (p *param) elsewhere() string {
	switch p.Name {
	case "command":
		return "; put it in a file with write_file and run that"
	case "content":
		return "; write the first part, then the others with append=true"
	case "stdin":
		return "; put it in a file with write_file and redirect from that"
	}
	return ""
}

// strings reads an object whose values are strings, numbers or booleans, also
// one that was quoted as a whole.
func (p *param) strings(raw json.RawMessage) (map[string]string, error) {
	if raw[0] == '"' {
		raw = json.RawMessage(unquote(raw))
	}
	var values map[string]json.RawMessage
	if err := json.Unmarshal(raw, &values); err != nil {
		return nil, errors.New(`must be an object of strings, as {"NAME": "value"}`) // what it is may hold secrets
	}
	out, total := make(map[string]string, len(values)), 0
	for name, v := range values {
		if v[0] == '{' || v[0] == '[' {
			return nil, fmt.Errorf("value of %q must be a string", brief(name))
		}
		if string(v) == "null" {
			continue
		}
		out[name] = unquote(v)
		if strings.ContainsRune(name+out[name], 0) {
			return nil, fmt.Errorf("%q must not contain a NUL character (\\u0000)", brief(name))
		}
		total += len(name) + len(out[name])
	}
	if p.maxBytes > 0 && total > p.maxBytes {
		return nil, fmt.Errorf("has %s bytes, at most %s are allowed", thousands(total), thousands(p.maxBytes))
	}
	return out, nil
}

// unquote returns the text of a JSON string, or of any other value as written.
func unquote(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	return string(raw)
}

// show quotes what the caller gave, shortened.
func show(raw json.RawMessage) string { return brief(string(raw)) }

// brief shortens a text for an error.
func brief(s string) string {
	const most = 60
	r := []rune(s[:min(len(s), 4*most+4)])
	if len(r) <= most {
		return string(r)
	}
	return string(r[:most]) + "…"
}
