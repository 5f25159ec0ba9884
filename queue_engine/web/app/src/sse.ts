// Server-sent events out of the pieces of a response. A piece may end inside a line, or inside a character.

export interface Sent {
  event: string;
  data: string;
}

/** Return a function that takes the next piece of text, and returns the events that are complete with it. */
export function eventReader(): (piece: string) => Sent[] {
  let rest = "";
  return (piece) => {
    const blocks = (rest + piece).split("\n\n");
    rest = blocks.pop() ?? "";
    return blocks.map(eventOf).filter((one) => one !== null);
  };
}

function eventOf(block: string): Sent | null {
  let event = "message";
  const data: string[] = [];
  for (const line of block.split("\n")) {
    if (line.startsWith("event:")) event = line.slice(6).trim();
    else if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
  }
  return data.length === 0 ? null : { event, data: data.join("\n") };
}
