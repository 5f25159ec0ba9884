{{/* Labels that never change: those by which pods are selected. */}}
{{- define "queue-engine.selector" -}}
app.kubernetes.io/name: queue-engine
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Labels of objects. Pods have only those above, so that a new version of the chart alone restarts no pod. */}}
{{- define "queue-engine.labels" -}}
{{ include "queue-engine.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* A number or text of the values as text. YAML's large numbers are floats here, and would be shown as 1e+09. */}}
{{- define "queue-engine.text" -}}
{{- if and (kindIs "float64" .) (eq (float64 (int64 .)) .) }}{{ int64 . }}{{ else }}{{ . }}{{ end -}}
{{- end }}

{{/* An image: (dict "root" $ "name" "queue-engine/engine" "digest" "…" "tag" "…"). */}}
{{- define "queue-engine.image" -}}
{{- $image := .root.Values.image }}
{{- $registry := required "image.registry: is required: the registry with the images of `make images`, such as images.example.com/team, or localhost for images that are loaded into the nodes" $image.registry }}
{{- if .digest }}{{ $registry }}/{{ .name }}@{{ .digest }}{{ else }}{{ $registry }}/{{ .name }}:{{ .tag | default $image.tag | default .root.Chart.AppVersion }}{{ end -}}
{{- end }}

{{/* The name of a Secret: (dict "root" $ "value" "store" "what" "…"). Those of a trial are in one Secret. */}}
{{- define "queue-engine.secret" -}}
{{- $given := (index .root.Values .value).existingSecret }}
{{- if $given }}{{ $given }}
{{- else if .root.Values.trial.enabled }}{{ .root.Release.Name }}-trial
{{- else }}{{ fail (printf "%s.existingSecret: is required: the name of a Secret with %s (or trial.enabled=true, to try the engine without)" .value .what) }}
{{- end -}}
{{- end }}

{{/* The key of a secret in its Secret. */}}
{{- define "queue-engine.secretKey" -}}
{{- $values := index .root.Values .value }}
{{- if $values.existingSecret }}{{ index $values .key }}{{ else }}{{ .trial }}{{ end -}}
{{- end }}

{{/* "yes" when the chart brings the store. */}}
{{- define "queue-engine.ownStore" -}}
{{- if and .Values.trial.enabled (not .Values.store.existingSecret) }}yes{{ end -}}
{{- end }}

{{/* "yes" when the API speaks HTTPS. */}}
{{- define "queue-engine.tls" -}}
{{- if or .Values.tls.existingSecret .Values.trial.enabled }}yes{{ end -}}
{{- end }}

{{/* The key of the Secret `tls` with the authority that agents and commands trust. Empty: the system's authorities. */}}
{{- define "queue-engine.caKey" -}}
{{- if .Values.tls.existingSecret }}{{ .Values.tls.caKey }}{{ else if .Values.trial.enabled }}ca.crt{{ end -}}
{{- end }}

{{/* The URL of the API inside of the cluster. */}}
{{- define "queue-engine.url" -}}
http{{ if include "queue-engine.tls" . }}s{{ end }}://{{ .Release.Name }}-api.{{ .Release.Namespace }}.svc:{{ .Values.service.port }}
{{- end }}

{{/* The URL of the API for agents, which send their tokens only over HTTPS. */}}
{{- define "queue-engine.agentUrl" -}}
{{- if .Values.agentUrl }}{{ .Values.agentUrl }}
{{- else if include "queue-engine.tls" . }}{{ include "queue-engine.url" . }}
{{- else }}{{ fail "agentUrl: is required without tls.existingSecret: the https:// URL of the Ingress or proxy before the API, because agents send their tokens only over HTTPS" }}
{{- end -}}
{{- end }}

{{/* The settings of all processes, as JSON: what the ConfigMap has and what its checksum covers. */}}
{{- define "queue-engine.settings" -}}
{{- $settings := dict }}
{{- with .Values.ingress }}
{{- if and .enabled .host }}{{ $_ := set $settings "QUEUE_ENGINE_OWN_HOSTS" .host }}{{ end }}
{{- end }}
{{- range $name, $value := .Values.settings }}
{{- if not (kindIs "invalid" $value) }}{{ $_ := set $settings $name (include "queue-engine.text" $value) }}{{ end }}
{{- end }}
{{- toJson $settings -}}
{{- end }}

{{/* The files of all processes, as JSON. */}}
{{- define "queue-engine.files" -}}
{{- $files := dict }}
{{- with .Values.catalogue }}{{ $_ := set $files "catalogue.toml" . }}{{ end }}
{{- with .Values.clusters.regions }}{{ $_ := set $files "clusters.toml" . }}{{ end }}
{{- toJson $files -}}
{{- end }}
