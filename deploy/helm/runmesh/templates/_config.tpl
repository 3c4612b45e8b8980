{{/* Helm reads numbers as floating point, which TOML tells from integers. Changes the map that it is given. */}}
{{- define "runmesh.integers" -}}
{{- $map := . -}}
{{- range $key, $value := $map -}}
{{- if kindIs "map" $value -}}
{{- include "runmesh.integers" $value -}}
{{- else if and (kindIs "float64" $value) (eq $value (floor $value)) -}}
{{- $_ := set $map $key (int64 $value) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Settings that have a place of their own among the values. */}}
{{- define "runmesh.refuse" -}}
{{- $places := dict
  "auth" "it is auth.token"
  "bus.uri" "it is bus.uri"
  "data" "it is a volume of roleDefaults.dataSize"
  "grpc.listen" "the port is 7300, the address listenAddress"
  "health" "the port is 7390, the address listenAddress"
  "http.listen" "the port is 7380, the address listenAddress"
  "node" "a node has its pod's name"
  "services" "the chart knows its Services"
  "shutdown.drain" "it is shutdown.drainSeconds"
  "store.uri" "it is store.uri"
  "tls" "it is tls.existingSecret"
-}}
{{- range $setting, $place := $places -}}
{{- $parts := splitList "." $setting -}}
{{- $found := get $.Values.config (first $parts) -}}
{{- if and $found (gt (len $parts) 1) -}}
{{- $found = hasKey $found (last $parts) -}}
{{- end -}}
{{- if $found -}}
{{- fail (printf "config.%s is set by the chart: %s" $setting $place) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
The settings of all roles but the gateway (runmesh.toml), or of the gateway (gateway.toml): that uses neither store nor
bus, and a bus with a password would want the password. Takes root and file.
*/}}
{{- define "runmesh.config" -}}
{{- $file := .file -}}
{{- with .root -}}
{{- include "runmesh.refuse" . -}}
{{- $config := deepCopy .Values.config -}}
{{- $_ := include "runmesh.integers" $config -}}
{{- $services := dict -}}
{{- $root := . -}}
{{- range $role := splitList " " (include "runmesh.apis" .) -}}
{{- $host := printf "%s-%s.%s.svc" (include "runmesh.fullname" $root) $role $root.Release.Namespace -}}
{{- $_ := set $services (replace "-" "_" $role) (printf "dns://%s:7300" $host) -}}
{{- end -}}
{{- $address := .Values.listenAddress -}}
{{- $own := dict
  "data" "/var/lib/runmesh"
  "bus" (dict "uri" (required "bus.uri is required: kafka://HOST:PORT" .Values.bus.uri))
  "grpc" (dict "listen" (printf "%s:7300" $address))
  "http" (dict "listen" (printf "%s:7380" $address))
  "health" (dict "listen" (printf "%s:7390" $address))
  "services" $services
  "shutdown" (dict "drain" (printf "%ds" (int .Values.shutdown.drainSeconds)))
-}}
{{- if .Values.tls.enabled -}}
{{- $_ := set $own "tls" (dict
  "certificate" "/etc/runmesh/tls/tls.crt"
  "key" "/etc/runmesh/tls/tls.key"
  "ca" "/etc/runmesh/tls/ca.crt"
) -}}
{{- end -}}
{{- $config = mergeOverwrite $config $own -}}
{{- if eq $file "gateway.toml" -}}
{{- $config = omit $config "bus" "store" -}}
{{- end -}}
{{- toToml $config -}}
{{- end -}}
{{- end -}}

{{/* The settings that are secret, as environment variables. */}}
{{- define "runmesh.secretSettings" -}}
{{- $settings := dict
  "auth.token" (required "auth.token is required (or existingSecret): the bearer token that callers need" .Values.auth.token)
  "store.uri" (required "store.uri is required (or existingSecret): mongodb://…" .Values.store.uri)
-}}
{{- range $setting, $value := merge $settings .Values.secretSettings }}
RUNMESH_{{ $setting | replace "." "__" | upper }}: {{ $value | quote }}
{{- end }}
{{- end -}}
