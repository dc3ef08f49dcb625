// Sentences of a text, by the same rule as dashboard/sentences.py.
export interface Sentence {
  readonly start: number;
  readonly end: number;
  readonly text: string;
}

const SENTENCE = /[^\s][^\n]*?(?:[.!?\u061f\u06d4\u3002]+(?=\s|$)|(?=\n|$))/g;

export function sentences(text: string): Sentence[] {
  return [...text.matchAll(SENTENCE)].map((one) => ({ start: one.index, end: one.index + one[0].length, text: one[0] }));
}
