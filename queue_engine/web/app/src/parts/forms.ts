// The parts that are loaded when one of them is first shown: see later.tsx.

export { CredentialsScreen } from "../screens/credentials.tsx";
export { EndpointForm } from "./endpoint-form.tsx";
export { EndpointSettings } from "./endpoint-settings.tsx";
