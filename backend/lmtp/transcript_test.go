package lmtp

import (
	"context"
	"sync"
	"testing"
	"time"

	"waypost/backend/link/linktest"
)

// dialogue is a served connection.
type dialogue struct {
	*linktest.Dialogue
	cancel context.CancelFunc
	served sync.WaitGroup
}

func serve(t testing.TB, opt Options) *dialogue {
	t.Helper()
	client, server := linktest.Pair(t)
	ctx, cancel := context.WithCancel(t.Context())
	d := &dialogue{Dialogue: linktest.NewDialogue(t, client), cancel: cancel}
	srv := New(opt)
	d.served.Go(func() { srv.Serve(ctx, server, "mx/mx1") })
	t.Cleanup(func() { cancel(); d.served.Wait() })
	d.Dots = true
	return d
}

const hello = `
	S: 220 b1.test LMTP Waypost
	C: LHLO mx1.test
	S: 250-b1.test
	S: 250-PIPELINING
	S: 250-SIZE 4000
	S: 250-8BITMIME
	S: 250-SMTPUTF8
	S: 250-CHUNKING
	S: 250-ENHANCEDSTATUSCODES
	S: 250 XWAYPOST
`

const envelope = hello + `
	C: MAIL FROM:<a@out.test> SIZE=100 BODY=8BITMIME XDELIVERY=id-1
	S: 250 2.1.0 OK
	C: RCPT TO:<ann@example.test> XHOME=b1 XEPOCH=7
	S: 250 2.1.5 OK
`

func fixedNow() time.Time {
	return time.Date(2026, 11, 3, 12, 0, 0, 0, time.FixedZone("", 3600))
}

func options(f *fakeStore) Options {
	return Options{Store: f, Hostname: "b1.test", MaxMessage: 4000, Now: fixedNow}
}

const trace = "Return-Path: <a@out.test>\n" +
	"Received: from mx1 by b1.test (Waypost) with LMTP id id-1;\n\tTue, 03 Nov 2026 12:00:00 +0100\n"
