package main

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"flashsale/internal/sandbox/sandboxtest"
)

func TestStreamsAreMeasured(t *testing.T) {
	var out bytes.Buffer
	err := run(t.Context(), []string{"streams", "--api=" + sandboxtest.Build(t, "api"), "--streams=300", "--rounds=2", "--duration=200ms", "--updates=1",
		"--workers=16"}, &out, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Database: ", "| medians | 0 streams | 300 streams |", "| while no orders arrive | "} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in %s", want, out.String())
		}
	}
}
