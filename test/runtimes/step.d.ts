export declare const DEVICES: Record<string, unknown>;
