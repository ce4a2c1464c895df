package sandbox

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
)

// maxQuote bounds how much of an unexpected answer an error quotes.
const maxQuote = 512

// query sends a command of a text protocol to addr on a connection of its own, and
// passes the answer to read.
func query(ctx context.Context, addr, command string, read func(*bufio.Reader) error) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return err
		}
	}
	_, err = io.WriteString(conn, command)
	if err == nil {
		err = read(bufio.NewReader(conn))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", strings.TrimSpace(command), err)
	}
	return nil
}

// getReady returns nil if GET url/readyz is answered with 200.
func getReady(ctx context.Context, client *http.Client, url, token string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/readyz", http.NoBody)
	if err != nil {
		return err
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(response.Body, maxQuote)) // only to quote it
		return fmt.Errorf("GET /readyz: %s: %s", response.Status, strings.TrimSpace(string(body)))
	}
	return nil
}
