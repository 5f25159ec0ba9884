// Parts whose code is loaded when one of them is first shown, so that the first load stays small. They are one file, because
// each set of parts that share code would become one more file of the first load.

import type { ComponentType } from "preact";
import { useEffect, useState } from "preact/hooks";
import { Notice, Skeleton } from "./common.tsx";

export const EndpointForm = later(async () => (await import("./forms.ts")).EndpointForm);
export const EndpointSettings = later(async () => (await import("./forms.ts")).EndpointSettings);
export const CredentialsScreen = later(async () => (await import("./forms.ts")).CredentialsScreen);

function later<P extends object>(load: () => Promise<ComponentType<P>>) {
  let part: ComponentType<P> | null = null;
  return function Later(props: P) {
    const [, show] = useState(part !== null);
    const [failed, setFailed] = useState(false);
    useEffect(() => {
      if (part !== null) return;
      load().then((loaded) => { part = loaded; show(true); }, () => setFailed(true));
    }, []);
    if (failed) return <Notice tone="bad"><b>This part of the console could not be loaded.</b> The API may have another version now. <button class="btn" type="button" onClick={() => location.reload()}>Load the page again</button></Notice>;
    const Part = part;
    return Part === null ? <Skeleton lines={8} /> : <Part {...props} />;
  };
}
