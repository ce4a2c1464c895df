package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// healthCmd is the health check of an image that has neither a shell nor curl.
type healthCmd struct {
	URL     string        `name:"health-url" default:"http://127.0.0.1:8080/readyz" placeholder:"URL" help:"What to ask (${default})."`
	Timeout time.Duration `name:"health-timeout" default:"3s" placeholder:"D" help:"Longest wait for the answer (${default})."`
}

// quotedAnswer is how much of a refusal is repeated.
const quotedAnswer = 512

// Run returns an error unless the answer is 200 and comes in time.
func (c *healthCmd) Run(ctx context.Context, s streams) error {
	if c.Timeout <= 0 {
		return fmt.Errorf("--health-timeout is %s, must be positive", c.Timeout)
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.URL, http.NoBody)
	if err != nil {
		return fmt.Errorf("--health-url: %w", err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(response.Body, quotedAnswer)) // only to repeat it
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s: %s", c.URL, response.Status, strings.TrimSpace(string(body)))
	}
	_, err = fmt.Fprintln(s.out, strings.TrimSpace(string(body)))
	return err
}
