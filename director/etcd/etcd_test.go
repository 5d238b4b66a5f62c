package etcd_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"waypost/director"
	"waypost/director/etcd"
	"waypost/director/etcd/embedded"
	"waypost/director/storetest"
)

const patience = 30 * time.Second

func start(t *testing.T, o embedded.EmbedOptions) *embedded.Embedded {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	m, err := embedded.StartEmbedded(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func TestConformance(t *testing.T) {
	m := start(t, embedded.EmbedOptions{Dir: t.TempDir()})
	n := 0
	storetest.Run(t, func(t *testing.T) director.Store {
		n++
		s, err := etcd.Open(t.Context(), etcd.Options{Endpoints: []string{m.Endpoint()}, Prefix: fmt.Sprintf("/test-%d/", n)})
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}
