package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"flashsale/loadtest/attack"
)

type envCmd struct {
	Out string `default:"out" placeholder:"DIR" help:"Folder of the stack's sandbox.json (default ${default})."`
}

// Run prints what a shell evaluates to know the stack that runs: its first replica
// as SHOP, and the rest under the names that the programs read themselves.
func (c *envCmd) Run(_ context.Context, s streams) error {
	path := filepath.Join(c.Out, sandboxFile)
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("no stack runs here (make up): %w", err)
	}
	var d sandboxDescription
	if err := json.Unmarshal(text, &d); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if len(d.Replicas) == 0 {
		return fmt.Errorf("%s names no replica", path)
	}
	for _, v := range []struct{ name, value string }{
		{"SHOP", d.Replicas[0]},
		{"FLASHSALE_ADMIN_TOKEN", d.AdminToken},
		{"FLASHSALE_JWT_SECRET", d.JWTSecret},
		{"FLASHSALE_MYSQL_DSN", d.MySQLDSN},
		{"FLASHSALE_ETCD_ENDPOINTS", strings.Join(d.EtcdEndpoints, ",")},
	} {
		if v.value == "" {
			continue // a strategy without etcd
		}
		if _, err := fmt.Fprintf(s.out, "export %s='%s'\n", v.name, strings.ReplaceAll(v.value, "'", `'\''`)); err != nil {
			return err
		}
	}
	return nil
}

type tokenCmd struct {
	Customer  string `arg:"" placeholder:"NAME" help:"Whom the token names: its sub."`
	JWTSecret string `name:"jwt-secret" exact:"" required:"" env:"FLASHSALE_JWT_SECRET" placeholder:"SECRET" help:"HS256 secret that the service checks tokens with."`
}

// Run prints a customer's token, as a shop's own sign-in would make it.
func (c *tokenCmd) Run(_ context.Context, s streams) error {
	if c.Customer == "" || c.JWTSecret == "" {
		return errors.New("a token needs a customer and a secret")
	}
	token, err := attack.Token(c.Customer, c.JWTSecret)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(s.out, token)
	return err
}
