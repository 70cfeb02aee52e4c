package cli

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// A table gives up characters of its flexible column first, and then its last columns.
func TestTableFits(t *testing.T) {
	table := Table{
		Header:   []string{"ID", "NAME", "STATE", "PLACE"},
		Rows:     [][]string{{"12345678", "a-name-of-twenty-two-x", "READY", "elsewhere"}, {"1", "-", "GONE", "-"}},
		Flexible: 1,
	}
	for total, want := range map[int][2]int{
		0:  {4, 0},  // no terminal
		60: {4, 32}, // room for all
		44: {4, 16},
		43: {3, 26}, // else the name would be too short
		20: {2, 10},
		9:  {2, 1}, // nothing fits
	} {
		if columns, most := table.fit(total); columns != want[0] || most != want[1] {
			t.Errorf("in %d characters: %d columns, %d of the name; want %v", total, columns, most, want)
		}
	}
	if columns, _ := (Table{Flexible: 1}).fit(60); columns != 0 {
		t.Errorf("a table of nothing has %d columns", columns)
	}
}

// What is too long goes on in the next line, whatever its words.
func TestWrap(t *testing.T) {
	long := "one two  three " + strings.Repeat("ä", 25) + " four"
	if got := wrap(long, 0) + wrap("short  line", 20); got != long+"short  line" {
		t.Errorf("changed: %q", got)
	}
	got := wrap(long, 12)
	for line := range strings.SplitSeq(got, "\n") {
		if utf8.RuneCountInString(line) > 12 {
			t.Errorf("%q is too long", line)
		}
	}
	if strings.Join(strings.Fields(got), "") != strings.Join(strings.Fields(long), "") {
		t.Errorf("something is lost: %q", got)
	}
}
