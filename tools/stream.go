package tools

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// How much of what a box prints a result shows, in bytes of text.
const (
	defaultShown = 16 << 10
	mostShown    = 38_000 // leaves room for our own lines below 40,000 characters
)

// A streamView is a piece of one output stream, for programs. Text has the
// bytes from Offset on; where the middle of a long output was left out, Text
// ends at CutFrom and Tail goes on at CutTo.
type streamView struct {
	Text       string `json:"text"`
	Encoding   string `json:"encoding,omitempty"` // "base64" where asked for
	Offset     int64  `json:"offset"`
	CutFrom    *int64 `json:"cut_from,omitempty"`
	CutTo      *int64 `json:"cut_to,omitempty"`
	Tail       string `json:"tail,omitempty"`
	NextOffset int64  `json:"next_offset"` // where to read on
	End        int64  `json:"end"`         // bytes printed so far
	EOF        bool   `json:"eof"`
	Dropped    int64  `json:"dropped,omitempty"` // bytes before Offset that are gone
}

// share divides budget between what two streams have.
func share(budget, out, err int) (outShare, errShare int) {
	errShare = min(err, budget/2)
	outShare = min(out, budget-errShare)
	return outShare, budget - outShare
}

// piece shows a chunk from its beginning, as much as fits.
func piece(c boxlite.OutputChunk, budget int) streamView {
	data := c.Data
	if n := incomplete(data); n > 0 && n < len(data) && !(c.EOF && c.Next() == c.End) {
		data = data[:len(data)-n] // the rest of the character comes with the next piece
	}
	w := head(data, budget)
	next := c.Offset + int64(w.to)
	return streamView{
		Text: w.text, Offset: c.Offset, NextOffset: next, End: c.End,
		EOF: c.EOF && next == c.End, Dropped: c.Dropped,
	}
}

// piece64 returns a chunk as base64, as much as fits.
func piece64(c boxlite.OutputChunk, budget int) streamView {
	n := min(len(c.Data), budget/4*3)
	next := c.Offset + int64(n)
	return streamView{
		Text: base64.StdEncoding.EncodeToString(c.Data[:n]), Encoding: "base64",
		Offset: c.Offset, NextOffset: next, End: c.End,
		EOF: c.EOF && next == c.End, Dropped: c.Dropped,
	}
}

// overview returns the whole of what an execution has printed where that fits
// into budget, else its beginning and its end. first is its output from offset
// 0 with budget bytes of each stream.
func (c *call) overview(ctx context.Context, id boxlite.ExecutionID, first boxlite.Output, budget int) (out, errs streamView, err error) {
	outShare, errShare := share(budget, width(first.Stdout), width(first.Stderr))
	out, errs = piece(first.Stdout, outShare), piece(first.Stderr, errShare)
	longOut, longErr := out.NextOffset < out.End, errs.NextOffset < errs.End
	if !longOut && !longErr {
		return out, errs, nil
	}
	last, err := c.svc.Output(ctx, id, boxlite.OutputRequest{
		StdoutOffset: -int64(outShare / 2), StderrOffset: -int64(errShare / 2), MaxBytes: budget / 2,
	})
	if err != nil {
		return out, errs, err
	}
	if longOut {
		out = headAndTail(first.Stdout, last.Stdout, outShare)
	}
	if longErr {
		errs = headAndTail(first.Stderr, last.Stderr, errShare)
	}
	return out, errs, nil
}

// width returns how many bytes of text a chunk and what follows it need at
// least.
func width(c boxlite.OutputChunk) int {
	shown := len(visible(c.Data))
	return int(min(int64(shown)+max(0, c.End-c.Next()), 1<<30))
}

// headAndTail shows the beginning of first and the end of last, which may
// overlap it.
func headAndTail(first, last boxlite.OutputChunk, budget int) streamView {
	v := piece(first, budget-budget/2)
	if skip := v.NextOffset - last.Offset; skip > 0 {
		last.Data = last.Data[min(skip, int64(len(last.Data))):]
		last.Offset += skip
	}
	if last.Next() <= v.NextOffset {
		return v
	}
	w := tail(last.Data, budget/2)
	from, to := v.NextOffset, last.Offset+int64(w.from)
	if from < to {
		v.CutFrom, v.CutTo = &from, &to
		v.Tail = w.text
	} else {
		v.Text += w.text
	}
	v.NextOffset, v.End = last.Next(), last.End
	v.EOF = last.EOF && v.NextOffset == last.End
	return v
}

// write adds the stream to the text for the model: fenced, with what is missing
// said outside the fence.
func (v streamView) write(b *strings.Builder, name string) {
	if v.Dropped > 0 {
		fmt.Fprintf(b, "%s: %d bytes before offset %d are gone: the output outgrew its spill limit.\n", name, v.Dropped, v.Offset)
	}
	if v.Text == "" && v.Tail == "" {
		return
	}
	label := name
	if v.Encoding != "" {
		label += " " + v.Encoding
	}
	b.WriteString(fence(label, v.Text) + "\n")
	if v.CutFrom != nil {
		fmt.Fprintf(b, "[%s: %d bytes left out here; exec_read with %s_offset=%d reads them]\n", name, *v.CutTo-*v.CutFrom, name, *v.CutFrom)
		b.WriteString(fence(label, v.Tail) + "\n")
	}
}
