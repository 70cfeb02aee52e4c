package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/MicahParks/keyfunc/v3"
)

// How often the issuer is asked for its keys.
const (
	askEvery  = 10 * time.Second // at most, whatever tokens come
	keysFresh = time.Hour        // at least, when tokens come: a key that was withdrawn must not count for ever
	askLimit  = 10 * time.Second // for an answer
	maxAnswer = 1 << 20          // bytes
)

// keySet are the keys that an issuer told of.
type keySet struct {
	find keyfunc.Keyfunc
	ids  map[string]bool
	at   time.Time
}

// has says whether a token that names this key can be judged. One that names
// none is tried with all.
func (s *keySet) has(kid string) bool { return s != nil && (kid == "" || s.ids[kid]) }

// keysWith returns the issuer's keys, asking it if there is none of that id. If
// they are merely old it asks too, but does not wait for the answer.
//
// Errors: the issuer does not answer, and the key is not known.
func (i *Issuer) keysWith(ctx context.Context, kid string) (*keySet, error) {
	i.mu.Lock()
	keys := i.keys
	if keys.has(kid) && i.now().Sub(keys.at) < keysFresh {
		i.mu.Unlock()
		return keys, nil
	}
	if i.asked == nil && i.now().Sub(i.tried) >= askEvery {
		i.tried, i.asked = i.now(), make(chan struct{})
		go i.ask(context.WithoutCancel(ctx)) // for all who wait, not only for this one
	}
	asked := i.asked
	i.mu.Unlock()
	if keys.has(kid) {
		return keys, nil
	}
	if asked != nil {
		select {
		case <-asked:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.keys.has(kid) && i.err != nil {
		return nil, fmt.Errorf("ask %s for its keys: %w", i.URL, i.err)
	}
	return i.keys, nil
}

// ask asks the issuer for its keys. If it does not tell, the old ones stay.
func (i *Issuer) ask(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	keys, err := i.fetch(ctx)
	i.mu.Lock()
	defer i.mu.Unlock()
	if err != nil {
		i.Log.Warn("an issuer does not tell its keys; those known go on counting", "issuer", i.URL, "err", err)
	} else {
		keys.at, i.keys = i.now(), keys
	}
	i.err = err
	close(i.asked)
	i.asked = nil
}

// fetch reads where the issuer has its keys (OpenID Connect Discovery 1.0, or
// RFC 8414), and reads them.
func (i *Issuer) fetch(ctx context.Context) (*keySet, error) {
	var about struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
	}
	if err := i.get(ctx, strings.TrimSuffix(i.URL, "/")+"/.well-known/openid-configuration", &about); err != nil {
		other, uerr := rfc8414(i.URL)
		if uerr != nil || i.get(ctx, other, &about) != nil {
			return nil, err
		}
	}
	if about.Issuer != i.URL {
		return nil, fmt.Errorf("it says that it is %q; set oauth_issuer to exactly what it says", clip(about.Issuer))
	}
	if !strings.HasPrefix(about.Keys, "https://") {
		return nil, fmt.Errorf("its jwks_uri is %q, not https", clip(about.Keys))
	}
	var set jwkset.JWKSMarshal
	if err := i.get(ctx, about.Keys, &set); err != nil {
		return nil, err
	}
	return newKeySet(ctx, set)
}

// rfc8414 returns where section 3.1 of RFC 8414 has what an issuer says of itself.
func rfc8414(issuer string) (string, error) {
	u, err := url.Parse(issuer)
	if err != nil {
		return "", err
	}
	u.Path = "/.well-known/oauth-authorization-server" + strings.TrimSuffix(u.Path, "/")
	return u.String(), nil
}

// newKeySet takes the keys that are for signatures of a kind that we know.
func newKeySet(ctx context.Context, set jwkset.JWKSMarshal) (*keySet, error) {
	store, ids := jwkset.NewMemoryStorage(), map[string]bool{}
	for _, k := range set.Keys {
		key, err := jwkset.NewJWKFromMarshal(k, jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{})
		if err != nil || k.USE != "" && k.USE != jwkset.UseSig {
			continue // RFC 7517, section 5: others may be for others
		}
		if err := store.KeyWrite(ctx, key); err != nil {
			return nil, err
		}
		ids[k.KID] = true
	}
	if len(ids) == 0 {
		return nil, errors.New("it has no key that can be used")
	}
	find, err := keyfunc.New(keyfunc.Options{Storage: store})
	return &keySet{find: find, ids: ids}, err
}

// get reads a JSON document.
func (i *Issuer) get(ctx context.Context, from string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return err
	}
	client := i.Client
	if client == nil {
		client = http.DefaultClient
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK || resp.Request.URL.Scheme != "https" { // it may have been redirected
		return fmt.Errorf("get %s: status %s by %s", from, resp.Status, resp.Request.URL.Scheme)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(into); err != nil {
		return fmt.Errorf("get %s: %w", from, err)
	}
	return nil
}
