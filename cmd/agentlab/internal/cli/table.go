package cli

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"golang.org/x/term"
)

// gap is what stands between columns.
const gap = "  "

// Table is printed in columns: in a terminal no wider than that, with the flexible
// column cut and, where even that does not do, without its last columns; else as wide
// as it is.
type Table struct {
	Header   []string // nil is none
	Rows     [][]string
	Flexible int // index of the column that gives way
}

// Print prints it.
func (t Table) Print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, len(gap), ' ', 0)
	last, most := t.fit(width(out))
	for _, r := range t.all() {
		r = slices.Clone(r[:last])
		if most > 0 {
			r[t.Flexible] = cut(r[t.Flexible], most)
		}
		_, _ = fmt.Fprintln(w, strings.Join(r, "\t")) // Flush has the error
	}
	return w.Flush()
}

// all are the rows with the header.
func (t Table) all() [][]string {
	if t.Header == nil {
		return t.Rows
	}
	return append([][]string{t.Header}, t.Rows...)
}

// cut shortens a cell to as many characters.
func cut(cell string, most int) string {
	if runes := []rune(cell); len(runes) > most {
		return string(runes[:most-1]) + "…"
	}
	return cell
}

// least is what the flexible column keeps, if it is that wide, before a column is left
// out for it.
const least = 16

// fit says how many columns fit into total characters, and how wide the flexible
// one may be then; 0 is as wide as it is.
func (t Table) fit(total int) (columns, most int) {
	all := t.all()
	if len(all) == 0 {
		return 0, 0
	}
	wide := make([]int, len(all[0]))
	for _, r := range all {
		for i := range r {
			wide[i] = max(wide[i], utf8.RuneCountInString(r[i]))
		}
	}
	if total == 0 {
		return len(wide), 0
	}
	for columns = len(wide); ; columns-- {
		most = total
		for i := range columns {
			if i != t.Flexible {
				most -= wide[i] + len(gap)
			}
		}
		if most >= min(wide[t.Flexible], least) || columns <= t.Flexible+1 {
			return columns, max(1, most)
		}
	}
}

// Lines breaks a line at spaces so that it fits into a terminal: what is too much
// goes on in the next line, indented. Elsewhere it stays as it is.
func Lines(out io.Writer, line string) string { return wrap(line, width(out)) }

// wrap breaks a line into ones of so many characters at most.
func wrap(line string, most int) string {
	const indent = "    "
	if most <= len(indent) || utf8.RuneCountInString(line) <= most {
		return line
	}
	var b strings.Builder
	used := 0
	for word := range strings.FieldsSeq(line) {
		if n := utf8.RuneCountInString(word); used > 0 && used+1+n <= most {
			b.WriteString(" ")
			used++
		} else if used > 0 {
			b.WriteString("\n" + indent)
			used = len(indent)
		}
		for _, r := range word {
			if used == most {
				b.WriteString("\n" + indent)
				used = len(indent)
			}
			b.WriteRune(r)
			used++
		}
	}
	return b.String()
}

// width returns how many characters a line of a terminal has, 0 if out is none.
func width(out io.Writer) int {
	f, ok := out.(*os.File)
	if !ok {
		return 0
	}
	cols, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return cols
}

func printSandboxes(out io.Writer, list []sandbox, now time.Time) error {
	t := Table{Header: []string{"ID", "NAME", "STATE", "ENDS IN", "PROFILE", "IP"}, Flexible: 1}
	for _, sb := range list {
		t.Rows = append(t.Rows, []string{sb.ID, cmp.Or(sb.Name, "-"), upper(sb.State), left(sb.Expires.Sub(now)), sb.Profile, cmp.Or(sb.IP, "-")})
	}
	return t.Print(out)
}

// printSandbox prints one, a line for each thing that is known of it.
func printSandbox(out io.Writer, sb sandbox, now time.Time) error {
	state := upper(sb.State)
	if sb.Place > 0 {
		state += fmt.Sprintf(", number %d in line", sb.Place)
	}
	vmid := ""
	if sb.VMID > 0 {
		vmid = strconv.Itoa(sb.VMID)
	}
	t := Table{Flexible: 1, Rows: [][]string{
		{"ID", sb.ID}, {"NAME", cmp.Or(sb.Name, "-")}, {"PROFILE", sb.Profile}, {"STATE", state},
		{"VMID", cmp.Or(vmid, "-")}, {"IP", cmp.Or(sb.IP, "-")},
		{"ENDS", sb.Expires.Format(time.RFC3339) + ", in " + left(sb.Expires.Sub(now))},
	}}
	if sb.OS != "" {
		t.Rows = append(t.Rows, []string{"OS", sb.OS})
	}
	if sb.Reason != "" {
		t.Rows = append(t.Rows, []string{"REASON", sb.Reason})
	}
	return t.Print(out)
}

// process is one of a sandbox as list_sandboxes tells of it.
type process struct {
	ID      string    `json:"process_id"`
	Command string    `json:"command"`
	State   string    `json:"state"`
	Started time.Time `json:"started_at"`
}

func printProcesses(out io.Writer, list []process) error {
	t := Table{Header: []string{"PROCESS", "STATE", "STARTED", "COMMAND"}, Flexible: 3}
	for _, p := range list {
		t.Rows = append(t.Rows, []string{p.ID, p.State, p.Started.Local().Format(time.TimeOnly), strconv.Quote(p.Command)})
	}
	return t.Print(out)
}

// left says how long something lasts, in few characters.
func left(d time.Duration) string {
	switch d = d.Round(time.Second); {
	case d <= 0:
		return "0s"
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
}
