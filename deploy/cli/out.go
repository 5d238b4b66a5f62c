package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
)

// output is where a command prints what was asked for.
type output struct {
	w    io.Writer
	json bool
}

// printing gives a command --json.
func (a *app) printing(c *cobra.Command) *output {
	o := &output{w: a.stdout}
	c.Flags().BoolVar(&o.json, "json", false, "print JSON")
	return o
}

// show prints v as JSON, or whatever text prints.
func (o *output) show(v any, text func(w io.Writer)) error {
	if !o.json {
		text(o.w)
		return nil
	}
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(o.w, "%s\n", b)
	return err
}

// say prints one line of text, or v as JSON.
func (o *output) say(v any, format string, args ...any) error {
	return o.show(v, func(w io.Writer) { fmt.Fprintf(w, format+"\n", args...) })
}

// orEmpty makes a list without elements [] in JSON, not null.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// table prints rows in columns under a head; cells are separated by tabs.
type table struct {
	w    *tabwriter.Writer
	rows int
}

// flushEvery bounds the rows that are kept to find the columns' widths.
const flushEvery = 1000

func newTable(w io.Writer, head ...string) *table {
	t := &table{w: tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)}
	fmt.Fprintln(t.w, strings.Join(head, "\t"))
	return t
}

func (t *table) row(cells ...any) {
	for i, c := range cells {
		if i > 0 {
			fmt.Fprint(t.w, "\t")
		}
		fmt.Fprint(t.w, c)
	}
	fmt.Fprintln(t.w)
	if t.rows++; t.rows%flushEvery == 0 {
		t.end()
	}
}

func (t *table) end() { _ = t.w.Flush() } // a broken pipe has nobody to tell

// list prints a list as it comes: a JSON array with one element a line, or rows.
type list[T any] struct {
	o     *output
	table *table
	cells func(T) []any
	n     int
}

func newList[T any](o *output, head []string, cells func(T) []any) *list[T] {
	l := &list[T]{o: o, cells: cells}
	if o.json {
		fmt.Fprint(o.w, "[")
	} else {
		l.table = newTable(o.w, head...)
	}
	return l
}

func (l *list[T]) add(v T) error {
	l.n++
	if l.table != nil {
		l.table.row(l.cells(v)...)
		return nil
	}
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	sep := ",\n "
	if l.n == 1 {
		sep = "\n "
	}
	_, err = fmt.Fprintf(l.o.w, "%s%s", sep, b)
	return err
}

func (l *list[T]) end() {
	switch {
	case l.table != nil:
		l.table.end()
	case l.n == 0:
		fmt.Fprintln(l.o.w, "]")
	default:
		fmt.Fprintln(l.o.w, "\n]")
	}
}

// printList prints a whole list.
func printList[T any](o *output, items []T, head []string, cells func(T) []any) error {
	l := newList(o, head, cells)
	for _, v := range items {
		if err := l.add(v); err != nil {
			return err
		}
	}
	l.end()
	return nil
}

func size(n int64) string {
	if n < 0 {
		return "-" + humanize.IBytes(uint64(-n))
	}
	return humanize.IBytes(uint64(n))
}

// sizeOr and countOr are for what nobody may know.
func sizeOr(n *int64) string {
	if n == nil {
		return "?"
	}
	return size(*n)
}

func countOr[T int | int64](n *T) string {
	if n == nil {
		return "?"
	}
	return fmt.Sprint(*n)
}

func sizeLimit(n int64) string {
	if n == 0 {
		return "unlimited"
	}
	return size(n)
}

func countLimit(n int64) string {
	if n == 0 {
		return "unlimited"
	}
	return fmt.Sprint(n)
}

func when(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// bytesValue is a flag that takes sizes: 1073741824, 1GiB, 500MB.
type bytesValue struct {
	n   int64
	set bool
}

func (b *bytesValue) String() string {
	if !b.set {
		return ""
	}
	return size(b.n)
}

func (b *bytesValue) Set(s string) error {
	n, err := humanize.ParseBytes(s)
	if err != nil || n > math.MaxInt64 {
		return fmt.Errorf("want a size like 500MB, 1GiB or 1073741824")
	}
	b.n, b.set = int64(n), true
	return nil
}

func (b *bytesValue) Type() string { return "SIZE" }
