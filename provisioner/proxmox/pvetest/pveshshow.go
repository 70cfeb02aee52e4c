package pvetest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// show prints a result: a table unless a format is asked for, also on a pipe.
// Null prints nothing. keys are those that a table has, all if there are none.
func (sh *shell) show(data any, keys []string) int {
	if p, ok := data.(paged); ok {
		data = p.data
	}
	if data == nil || isTrue(sh.format["quiet"]) {
		return 0
	}
	raw := encode(data)
	switch sh.format["output-format"] {
	case "json":
		sh.say(string(raw))
	case "json-pretty":
		var buf bytes.Buffer
		_ = json.Indent(&buf, raw, "", "   ")
		sh.say(strings.ReplaceAll(buf.String(), `": `, `" : `))
	default:
		var v any
		dec := json.NewDecoder(bytes.NewReader(raw))
		dec.UseNumber()
		_ = dec.Decode(&v)
		if m, ok := v.(map[string]any); ok && len(keys) > 0 {
			maps.DeleteFunc(m, func(k string, v any) bool { return v == nil || !slices.Contains(keys, k) })
		}
		sh.table(v)
	}
	return 0
}

func (sh *shell) table(v any) {
	switch v := v.(type) {
	case map[string]any:
		rows := [][]string{{"key", "value"}}
		for _, k := range slices.Sorted(maps.Keys(v)) {
			rows = append(rows, []string{k, cell(v[k])})
		}
		sh.grid(rows)
	case []any:
		keys := map[string]bool{}
		for _, e := range v {
			if m, ok := e.(map[string]any); ok {
				for k := range m {
					keys[k] = true
				}
			}
		}
		head := slices.Sorted(maps.Keys(keys))
		rows := [][]string{head}
		for _, e := range v {
			row := make([]string, len(head))
			for i, k := range head {
				if m, ok := e.(map[string]any); ok && m[k] != nil {
					row[i] = cell(m[k])
				}
			}
			rows = append(rows, row)
		}
		if len(v) > 0 {
			sh.grid(rows)
		}
	default:
		sh.say(cell(v))
	}
}

func cell(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case map[string]any, []any:
		return string(encode(v))
	}
	return fmt.Sprint(v)
}

// grid draws rows, the first being the head, with the borders of the locale.
func (sh *shell) grid(rows [][]string) {
	width := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, c := range row {
			for line := range strings.Lines(c) {
				width[i] = max(width[i], utf8.RuneCountInString(strings.TrimSuffix(line, "\n")))
			}
		}
	}
	if isTrue(sh.format["noheader"]) {
		rows = rows[1:]
	}
	if isTrue(sh.format["noborder"]) {
		for _, row := range rows {
			for _, line := range lines(row) {
				sh.say(strings.TrimRight(pad(line, width, " "), " "))
			}
		}
		return
	}
	set := [4]string{"┌─┬┐", "╞═╪╡", "├─┼┤", "└─┴┘"}
	bar := "│"
	if sh.ascii {
		set, bar = [4]string{"+-++", "+=++", "+-++", "+-++"}, "|"
	}
	sh.say(rule(set[0], width))
	for i, row := range rows {
		for _, line := range lines(row) {
			sh.say(bar + " " + pad(line, width, " "+bar+" ") + " " + bar)
		}
		switch {
		case i == len(rows)-1:
			sh.say(rule(set[3], width))
		case i == 0 && !isTrue(sh.format["noheader"]):
			sh.say(rule(set[1], width))
		default:
			sh.say(rule(set[2], width))
		}
	}
}

// lines are those that the cells of a row need.
func lines(row []string) [][]string {
	out := [][]string{make([]string, len(row))}
	for i, c := range row {
		for j, line := range strings.Split(strings.TrimRight(c, "\n"), "\n") {
			if j == len(out) {
				out = append(out, make([]string, len(row)))
			}
			out[j][i] = line
		}
	}
	return out
}

func pad(row []string, width []int, sep string) string {
	cells := make([]string, len(row))
	for i, c := range row {
		cells[i] = c + strings.Repeat(" ", width[i]-utf8.RuneCountInString(c))
	}
	return strings.Join(cells, sep)
}

func rule(set string, width []int) string {
	r := []rune(set)
	parts := make([]string, len(width))
	for i, w := range width {
		parts[i] = strings.Repeat(string(r[1]), w+2)
	}
	return string(r[0]) + strings.Join(parts, string(r[2])) + string(r[3])
}
